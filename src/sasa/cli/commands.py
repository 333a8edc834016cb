"""All commands in the order of `sasa --help`: importing a file adds its commands to the application."""

# ruff: noqa: I001
from sasa.cli.app import app
from sasa.cli import data, train, evaluate, predict, attend, explore, export, detect, push, bench, networks, reproduce
from sasa.cli import doctor

__all__ = [
    "app",
    "attend",
    "bench",
    "data",
    "detect",
    "doctor",
    "evaluate",
    "explore",
    "export",
    "networks",
    "predict",
    "push",
    "reproduce",
    "train",
]
