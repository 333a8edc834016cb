"""All commands in the order of `sasa --help`: importing a file adds its commands to the application."""

# ruff: noqa: I001
from sasa.cli.app import app
from sasa.cli import bench, data, detect, doctor, evaluate, networks, pictures, push, reproduce, train

__all__ = ["app", "bench", "data", "detect", "doctor", "evaluate", "networks", "pictures", "push", "reproduce", "train"]
