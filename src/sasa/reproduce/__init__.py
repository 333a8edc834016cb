"""Reproduce the tables of the paper: rows, plans, runs, and our results beside the paper's."""
