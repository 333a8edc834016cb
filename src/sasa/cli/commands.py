"""All commands in the order of `sasa --help`: importing a file adds its commands to the application."""

# ruff: noqa: I001
from sasa.cli.app import app
from sasa.cli import train, evaluate, pictures, detect, push, reproduce, networks, bench, doctor

__all__ = ["app", "bench", "detect", "doctor", "evaluate", "networks", "pictures", "push", "reproduce", "train"]
