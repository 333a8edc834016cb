"""The tables of the paper as commands: rows, plans, runs, and our results beside the paper's."""
