"""Averages of weights and of batch norm's statistics, compared for docs/choices.md on one run for all of them.

    python -m benchmarks.training.averages digits --epochs 3 6 16
    python -m benchmarks.training.averages CIFAR_DIR --images 3000 --row r26_baseline --seeds 0 1 2 --output FILE

Averages do not change the training. So each run is trained once, follows averages over several shares of its steps, and
is scored with each at its end, on images of the training set that it was not trained on; the test set is not opened.
Prints, for each pair (weights, statistics), the difference in points to the weights of the last step with torch's own
momentum of 0.1. Finished runs are read from the output and not repeated.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sasa.data.classification import Subset, open_splits
from sasa.data.sampler import epoch_order
from sasa.reproduce.plan import Plan
from sasa.tasks.classification.config import resolve
from sasa.tasks.classification.task import Classification
from sasa.training.averages import BatchNormAverages, WeightAverage, warmed_up
from sasa.training.loop import Trainer
from sasa.training.memory import keep_freed_memory
from sasa.training.processes import make_fabric
from sasa.training.settings import Config, parse_setting

SHARES = (0.01, 0.02, 0.05, 0.1, 0.25)  # of the steps of a run
BATCHES = 50  # of training images, for statistics that are computed again at the end


class Statistics(BatchNormAverages):
    """Batch norm's statistics averaged with several decays at once; `decays` is by name."""

    def __init__(self, network: nn.Module, decays: dict[str, float]) -> None:
        super().__init__(network, 0.1)
        self.decays = decays
        self.followed = {name: [tensor.clone() for tensor in self.running] for name in decays}

    def update(self, step: int, mean_over_processes: Any = None) -> None:
        """Update every average after a step."""
        means = [total / self.parts for total in self.totals]
        for name, averages in self.followed.items():
            torch._foreach_lerp_(averages, means, 1 - warmed_up(self.decays[name], step))
        super().update(step, mean_over_processes)


def decay(share: float, steps: int, least: float) -> float:
    """Return the decay of an average over a share of the steps, at least `least` of them."""
    return 1 - 1 / max(share * steps, least)


def follow(trainer: Trainer) -> tuple[dict[str, WeightAverage], Statistics]:
    """Train to the end; return the averages of weights and of statistics."""
    network, steps = trainer.task.network, trainer.task.steps
    trainer.statistics.release()
    weights = {f"{share:g}": WeightAverage(network, decay(share, steps, 1)) for share in SHARES}
    norms = Statistics(network, {f"{share:g}": decay(share, steps, 10) for share in SHARES} | {"0.1 a step": 0.9})
    trainer.statistics = norms
    batches = trainer.task.batches(0)
    trainer.model.train()
    while trainer.step < steps:
        trainer.train_step(batches)
        for average in weights.values():
            average.update(trainer.step - 1)
    return weights, norms


@contextmanager
def averaged(average: WeightAverage | None) -> Iterator[None]:
    """Score with averaged weights, or with those of the last step."""
    if average is None or not average.decay:
        yield
    else:
        with average.in_place():
            yield


@torch.no_grad()
def computed_again(trainer: Trainer, norms: Statistics) -> list[Tensor]:
    """Return the mean of batch norm's statistics over training batches with the network's present weights."""
    batches = list(islice(trainer.task.batches(0), BATCHES))
    totals = [torch.zeros_like(tensor) for tensor in norms.running]
    trainer.model.train()
    for batch in batches:
        trainer.model(batch.to(trainer.fabric.device, True).images)  # momentum is 1: leaves the batch's statistics
        torch._foreach_add_(totals, norms.running)
    return [total / len(batches) for total in totals]


def scores(trainer: Trainer) -> dict[str, tuple[float, float]]:
    """Train, and return top-1 in % and the loss for each pair "weights / statistics"."""
    weights, norms = follow(trainer)
    found = {}

    def score(name: str, values: list[Tensor]) -> None:
        torch._foreach_copy_(norms.running, values)
        result = trainer.task.score(trainer.model)
        found[name] = (100 * result.top1, result.loss)

    for name, average in {"last": None, **weights}.items():
        with averaged(average):
            score(f"{name} / 0.1 a step", norms.followed["0.1 a step"])
            for share in SHARES if average is None else [float(name)]:
                score(f"{name} / {share:g}", norms.followed[f"{share:g}"])
            score(f"{name} / again", computed_again(trainer, norms))
    return found


def config_of(arguments: argparse.Namespace, epochs: int, seed: int) -> Config:
    """Return the config of a recipe or of a row of the small Table 1, for so many epochs."""
    changes = [parse_setting(text) for text in arguments.set]
    if arguments.recipe:
        own = [("data.source", arguments.data), ("recipe.epochs", epochs), ("run.seed", seed)]
        return resolve(arguments.recipe, [*own, *changes])
    plan = Plan("1", "digits" if arguments.data == "digits" else "cifar10", "small", epochs=epochs)
    row = next(row for row in plan.rows if row.name == arguments.row)
    config = plan.config(row, seed, arguments.data, "cpu")
    for key, value in changes:
        config.set(key, value)
    return config


def run(config: Config, images: int, held_out: int) -> dict[str, tuple[float, float]]:
    """Train on `images` of the training set, and score on `held_out` others."""
    train, _ = open_splits(config.data.source, config.data.held_out, config.run.seed)
    order = epoch_order(len(train), 1000 + config.run.seed, 0).tolist()
    images = images or len(train) - held_out
    splits = Subset(train, sorted(order[held_out:][:images])), Subset(train, sorted(order[:held_out]))
    keep_freed_memory()
    fabric = make_fabric(config.run)
    return scores(Trainer.start(config, fabric, Classification(config, fabric, splits)))


def main() -> None:
    """Run what is missing in the output, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="digits, the directory of CIFAR-10, or with --recipe any data set")
    parser.add_argument("--images", type=int, default=0, help="of the training set; 0 for all but the held-out ones")
    parser.add_argument("--held-out", type=int, default=287)
    parser.add_argument("--row", default="r26_full", help="of the small Table 1: r26_full or r26_baseline")
    parser.add_argument("--recipe", help="of sasa train, in place of a row")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 6, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("runs/averages.jsonl"))
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    done = {}
    if arguments.output.exists():
        done = {tuple(k): v for k, v in map(json.loads, arguments.output.read_text().splitlines())}
    network = arguments.recipe or arguments.row
    for epochs in arguments.epochs:
        differences = defaultdict(list)
        for seed in arguments.seeds:
            key = (arguments.data, arguments.images, network, epochs, seed, *arguments.set)
            if key not in done:
                done[key] = run(config_of(arguments, epochs, seed), arguments.images, arguments.held_out)
                with arguments.output.open("a") as file:
                    file.write(json.dumps([key, done[key]]) + "\n")
            for name, (top1, _) in done[key].items():
                differences[name].append(top1 - done[key]["last / 0.1 a step"][0])
            print(f"{key}: {done[key]['last / 0.1 a step'][0]:.2f} %", flush=True)
        print(f"\n{network}, {epochs} epochs\n| weights / statistics | mean | worst |\n|---|---:|---:|")
        for name, values in differences.items():
            print(f"| {name} | {statistics.mean(values):+.2f} | {min(values):+.2f} |", flush=True)


if __name__ == "__main__":
    main()
