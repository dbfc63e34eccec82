"""Toy movies: rendered films in which what matters is that picture and sound agree."""
