"""Clips in, scores out: films, records and validation score through one interface."""
