"""The tasks that a network can be trained for, a package each, and what they share.

A new task is a package like `classification` and a line in `registry.TASKS`; its commands are a file in `sasa.cli`.
"""
