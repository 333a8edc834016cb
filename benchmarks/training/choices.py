"""Ablations for docs/choices.md: one choice varied at a time, trained with paired seeds, scored on a validation set.

    python -m benchmarks.training.choices digits
    python -m benchmarks.training.choices DIR --epochs 2 --only default mask --seeds 0 1 --output runs/choices

Trains a row of the small Table 1 of `sasa reproduce` with `--validation`: on CIFAR-10 a part of the training set is
held out, and the test set is not opened. Prints top-1 accuracy of each variant, mean and standard error over the seeds,
and the paired difference to the default. Finished runs are not repeated. What has no setting, such as an
initialisation, is changed after construction.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sasa.models import ResNet
from sasa.nn import LocalAttention2d
from sasa.reproduce.plan import Plan
from sasa.tasks.classification import task as classification
from sasa.tasks.train import train
from sasa.training.settings import Config, parse_setting

Change = Callable[[nn.Module], None]


def no_change(network: nn.Module) -> None:
    """Leave the network as it is."""


def attention_of(network: nn.Module) -> list[LocalAttention2d]:
    """List the local attention layers."""
    return [module for module in network.modules() if isinstance(module, LocalAttention2d)]


def rescale_query_key(power: float) -> Change:
    """Scale W_Q and W_K by head_dim ** power; 0.25 gives plain fan-in initialisation."""

    def change(network: nn.Module) -> None:
        for layer in attention_of(network):
            with torch.no_grad():
                layer.qkv.weight[: 2 * layer.out_channels] *= (layer.out_channels // layer.num_heads) ** power

    return change


def rescale_value(factor: float) -> Change:
    """Scale W_V."""

    def change(network: nn.Module) -> None:
        for layer in attention_of(network):
            with torch.no_grad():
                layer.qkv.weight[-layer.out_channels :] *= factor

    return change


def set_relative(std: Callable[[int], float]) -> Change:
    """Draw r from a normal distribution with a standard deviation that depends on head_dim."""

    def change(network: nn.Module) -> None:
        for layer in attention_of(network):
            for rel in (layer.rel_row, layer.rel_col):
                if rel is not None:
                    nn.init.normal_(rel, std=std(layer.out_channels // layer.num_heads))

    return change


def set_windows_apart(network: nn.Module) -> None:
    """Start each head around one of the nine nearest pixels: q with a constant part, r falling with the distance."""
    taps = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
    for layer in attention_of(network):
        assert layer.rel_row is not None
        assert layer.rel_col is not None
        order = torch.cat([torch.randperm(len(taps)) for _ in range(-(-layer.num_heads // len(taps)))])
        taps_of_heads = taps[order[: layer.num_heads]]
        offsets = torch.arange(layer.kernel_size) - layer.kernel_size // 2
        with torch.no_grad():
            # Inputs are ReLU(N(0, 1)), of mean 0.4: each channel of q gets a mean of 1.
            layer.qkv.weight[: layer.out_channels] += 2.5 / layer.in_channels
            for rel, tap in zip((layer.rel_row, layer.rel_col), taps_of_heads.T, strict=True):
                logits = -((offsets - tap[:, None]) ** 2).float()  # (heads, offsets)
                logits -= logits.mean(1, keepdim=True)
                rel.copy_(logits[:, :, None].expand_as(rel) / rel.shape[-1])


def decay_relative(network: nn.Module) -> None:
    """Apply weight decay to r as well."""
    exempt = network.no_weight_decay
    network.no_weight_decay = lambda: {name for name in exempt() if "rel_" not in name}


VARIANTS: dict[str, tuple[dict[str, object], Change]] = {
    "default": ({}, no_change),
    "zeros": ({"model.padding": "zeros"}, no_change),
    "mask": ({"model.padding": "mask"}, no_change),
    "rate-0.05": ({"recipe.learning_rate": 0.05}, no_change),
    "rate-0.1": ({"recipe.learning_rate": 0.1}, no_change),
    "rate-0.2": ({"recipe.learning_rate": 0.2}, no_change),
    "rate-0.4": ({"recipe.learning_rate": 0.4}, no_change),
    "adamw-0.002": (
        {"recipe.optimizer": "adamw", "recipe.learning_rate": 2e-3, "recipe.weight_decay": 0.05},
        no_change,
    ),
    "adamw-0.006": (
        {"recipe.optimizer": "adamw", "recipe.learning_rate": 6e-3, "recipe.weight_decay": 0.05},
        no_change,
    ),
    "warm-up-1": ({"recipe.warmup_epochs": 1.0}, no_change),
    "gamma-1": ({"model.zero_init_residual": False}, no_change),
    "plain-query-key": ({}, rescale_query_key(0.25)),
    "small-value": ({}, rescale_value(0.5)),
    "r-one": ({}, set_relative(lambda head_dim: 1.0)),
    "r-zero": ({}, set_relative(lambda head_dim: 0.0)),
    "r-double": ({}, set_relative(lambda head_dim: 2 * head_dim**-0.25)),
    "r-fourfold": ({}, set_relative(lambda head_dim: 4 * head_dim**-0.25)),
    "windows-apart": ({}, set_windows_apart),
    "r-decays": ({}, decay_relative),
    "stem-relu": ({"model.stem_activation": True}, no_change),
    "no-stem-relu": ({"model.stem_activation": False}, no_change),
    "averages-none": ({"recipe.ema_decay": 0.0, "recipe.batch_norm_momentum": 0.1}, no_change),
    "averages-auto": ({"recipe.ema_decay": "auto", "recipe.batch_norm_momentum": "auto"}, no_change),
    "two-heads": ({"model.num_heads": 2}, no_change),
    "four-heads": ({"model.num_heads": 4}, no_change),
    "eight-heads": ({"model.num_heads": 8}, no_change),
    "absolute": ({"model.position": "absolute"}, no_change),
    "none": ({"model.position": "none"}, no_change),
}


def configure(arguments: argparse.Namespace, variant: str, seed: int) -> Config:
    """Make the config of `sasa reproduce 1 --scale small --validation` with the settings of a variant."""
    dataset = "digits" if arguments.data == "digits" else "cifar10"
    plan = Plan("1", dataset, "small", validation=True, epochs=arguments.epochs)
    row = next(row for row in plan.rows if row.name == arguments.row)
    config = plan.config(row, seed, arguments.data, "cpu")
    for key, value in [*map(parse_setting, arguments.set), *VARIANTS[variant][0].items()]:
        config.set(key, value)
    return config


def accuracy(config: Config, change: Change, directory: Path) -> float:
    """Train, unless the run is finished; return top-1 accuracy on the validation set, in %."""
    summary = directory / "summary.json"
    if summary.is_file():
        return 100 * json.loads(summary.read_text())["held_out_top1"]
    make_network = classification.make_network

    def changed(*arguments) -> ResNet:
        network = make_network(*arguments)
        change(network)
        return network

    classification.make_network = changed
    try:
        result = train(config, directory)
    finally:
        classification.make_network = make_network
    assert result
    return 100 * result["held_out_top1"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="digits, or the directory of CIFAR-10")
    parser.add_argument("--row", default="r26_full", help="of the small Table 1: r26_full or r26_baseline")
    parser.add_argument("--epochs", type=int, help="[default: the recipe's]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all variants")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=Path("runs/choices"))
    arguments = parser.parse_args()
    print("| variant | top-1 % | difference to the default |\n|---|---:|---:|")
    baseline: list[float] = []
    words = "-".join([arguments.row, str(arguments.epochs or "all"), *arguments.set])
    for variant in arguments.only:
        scores = [
            accuracy(
                configure(arguments, variant, seed),
                VARIANTS[variant][1],
                arguments.output / f"{words}-{variant}-seed{seed}",
            )
            for seed in arguments.seeds
        ]
        baseline = baseline or scores
        differences = [score - base for score, base in zip(scores, baseline, strict=True)]
        difference = "" if scores is baseline else with_error(differences, "+.2f")
        print(f"| {variant} | {with_error(scores, '.2f')} | {difference} |", flush=True)


def with_error(values: list[float], form: str) -> str:
    """Format mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):{form}} ± {error:.2f}"


if __name__ == "__main__":
    main()
