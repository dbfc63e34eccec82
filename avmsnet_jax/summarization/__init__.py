"""Turns a film into its summary: choose shots, cut, explain, report."""
