"""What docs/choices.md rests on: variants of one choice at a time, trained on the digits with paired seeds.

    python benchmarks/digits_choices.py [--epochs 10] [--seeds 3]

Prints held-out top-1 of each variant, mean and standard error over the seeds, and the paired difference to the
default. Initialisations are changed from outside, after construction.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import nn

from sasa.nn import LocalAttention2d
from sasa.training import loop
from sasa.training.config import resolve
from sasa.training.train import train


def no_change(network: nn.Module) -> None:
    """The default."""


def rescale_query_key(power: float) -> Callable[[nn.Module], None]:
    """W_Q and W_K times head_dim ** power: 0.25 gives plain fan-in."""

    def change(network: nn.Module) -> None:
        for layer in (m for m in network.modules() if isinstance(m, LocalAttention2d)):
            with torch.no_grad():
                layer.qkv.weight[: 2 * layer.out_channels] *= (layer.out_channels // layer.num_heads) ** power

    return change


def set_relative(std: Callable[[int], float]) -> Callable[[nn.Module], None]:
    """r from a normal of another standard deviation."""

    def change(network: nn.Module) -> None:
        for layer in (m for m in network.modules() if isinstance(m, LocalAttention2d)):
            for rel in (layer.rel_row, layer.rel_col):
                if rel is not None:
                    nn.init.normal_(rel, std=std(layer.out_channels // layer.num_heads))

    return change


VARIANTS: dict[str, tuple[list[tuple[str, object]], Callable[[nn.Module], None]]] = {
    "default": ([], no_change),
    "padding=zeros": ([("model.padding", "zeros")], no_change),  # the recipe masks
    "gamma of the last batch norm 1": ([("model.zero_init_residual", False)], no_change),
    "W_Q, W_K plain fan-in": ([], rescale_query_key(0.25)),
    "r from N(0, 1)": ([], set_relative(lambda head_dim: 1.0)),
    "r zero": ([], set_relative(lambda head_dim: 0.0)),
    "no ReLU after the stem": ([("model.stem_activation", False)], no_change),
    "position=absolute": ([("model.position", "absolute")], no_change),
    "position=none": ([("model.position", "none")], no_change),
}


def accuracy(settings: list[tuple[str, object]], change: Callable[[nn.Module], None], epochs: int, seed: int) -> float:
    """Held-out top-1, in %, of one run of the digits' recipe."""
    make_network = loop.make_network

    def changed(*arguments):
        network = make_network(*arguments)
        change(network)
        return network

    config = resolve("digits", [("recipe.epochs", epochs), ("run.seed", seed), *settings])
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        loop.make_network = changed
        try:
            return 100 * train(config, Path(folder) / "run")["held_out_top1"]
        finally:
            loop.make_network = make_network


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"digits, {arguments.epochs} epochs, {arguments.seeds} seeds, torch {torch.__version__}\n")
    print("| variant | top-1 % | difference to the default |\n|---|---:|---:|")
    baseline: list[float] = []
    for name, (settings, change) in VARIANTS.items():
        scores = [accuracy(settings, change, arguments.epochs, seed) for seed in range(arguments.seeds)]
        baseline = baseline or scores
        differences = [score - base for score, base in zip(scores, baseline, strict=True)]
        difference = "" if name == "default" else with_error(differences, "+.2f")
        print(f"| {name} | {with_error(scores, '.2f')} | {difference} |", flush=True)


def with_error(values: list[float], form: str) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):{form}} ± {error:.2f}"


if __name__ == "__main__":
    main()
