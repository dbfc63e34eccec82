"""Toy movies: synthetic films whose key moments are those at which picture and sound agree."""
