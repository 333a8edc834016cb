"""What the recipe of `make demo` is chosen by: accuracy on a part of the training images, and time beside the twin.

    python benchmarks/demo.py accuracy --seeds 0 1 2 --set model.width=0.75 recipe.epochs=20
    python benchmarks/demo.py speed --threads 1 --set model.width=0.75 model.num_heads=4

`accuracy` splits the training images of each seed once more, by the same rule, trains on the rest, and scores the part
with the weights of the end and with averages of several lengths, all of one training. The held-out images are not
used. `speed` times the network of the changed recipe and its convolutional twin in turns, before any training.
"""

import argparse
import contextlib
import statistics

import torch

from sasa.data.classification import split
from sasa.speed.timing import ratios, spread, take_turns, torch_threads
from sasa.speed.twin import OURS, TWIN, first_batches, inference_step, training_step, twin
from sasa.tasks.classification.config import TrainConfig, resolve
from sasa.tasks.classification.task import Classification, open_training_data
from sasa.training.averages import WeightAverage, warmed_up
from sasa.training.loop import Trainer
from sasa.training.memory import keep_freed_memory
from sasa.training.processes import make_fabric
from sasa.training.settings import parse_setting

DECAYS = (0.0, 0.9, 0.95, 0.98)  # 0: the weights of the end, and batch norm with torch's momentum of 0.1
ROUNDS, SECONDS = 40, 1.5


def validation_errors(config: TrainConfig) -> tuple[int, dict[float, int]]:
    """Validation images of one seed, and how many are wrong with each average; the weights are trained once."""
    train, _ = open_training_data(config)
    fabric = make_fabric(config.run)
    task = Classification(config, fabric, split(train, config.data.held_out, 1000 + config.run.seed))
    trainer = Trainer.start(config, fabric, task)
    weights = {decay: WeightAverage(task.network, decay) for decay in DECAYS}
    norms = {decay: [tensor.clone() for tensor in trainer.statistics.averages] for decay in DECAYS}
    parts = task.batches(0)
    trainer.model.train()
    for step in range(task.steps):
        # The network's own statistics are replaced after each step, so momentum 1 leaves those of the last batch.
        trainer.statistics.momentum = 1.0
        trainer.train_step(parts, None)  # pyright: ignore[reportArgumentType]
        for decay in DECAYS:
            weights[decay].update(step)
            part = 1 - warmed_up(decay or 0.9, step)
            torch._foreach_lerp_(norms[decay], trainer.statistics.running, part)  # pyright: ignore
    errors = {}
    for decay in DECAYS:
        torch._foreach_copy_(trainer.statistics.running, norms[decay])  # pyright: ignore
        with weights[decay].in_place() if decay else contextlib.nullcontext():
            score = task.score(trainer.model)
            errors[decay] = round((1 - score.top1) * score.count)
    return len(task.held_out), errors


def accuracy(changes: list[tuple[str, object]], seeds: list[int]) -> None:
    """Print the errors of each seed, and the mean accuracy of each average."""
    found = []
    for seed in seeds:
        found.append(validation_errors(resolve("digits", [*changes, ("run.seed", seed)])))
        print(f"seed {seed}: {found[-1][1]} of {found[-1][0]} wrong", flush=True)
    for decay in DECAYS:
        mean = statistics.fmean(1 - errors[decay] / count for count, errors in found)
        print(f"average {decay}: {100 * mean:.2f} %")


def speed(changes: list[tuple[str, object]], threads: int | None) -> None:
    """Print milliseconds of a batch and the ratio, in training and inference."""
    keep_freed_memory()
    config = resolve("digits", changes)
    task = Classification(config, make_fabric(config.run))
    batches = first_batches(task, config)
    networks = {OURS: task.network, TWIN: twin(task.network).to(memory_format=torch.channels_last)}  # pyright: ignore
    with torch_threads(threads):
        for name, make in (
            ("training step", lambda network: training_step(network, batches, task, config)),
            ("inference", lambda network: inference_step(network, batches)),
        ):
            times = take_turns({side: make(network) for side, network in networks.items()}, ROUNDS, SECONDS)
            ours, other = (1000 * spread(times[side]).median for side in (OURS, TWIN))
            ratio = spread(ratios(times[OURS], times[TWIN])).median
            print(f"{name}: {ours:.1f} ms, twin {other:.1f} ms, ratio {ratio:.2f}", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "speed"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the recipe `digits`")
    arguments = parser.parse_args()
    changes = [parse_setting(text) for text in arguments.set]
    if arguments.what == "speed":
        speed(changes, arguments.threads)
    else:
        with torch_threads(arguments.threads):
            accuracy(changes, arguments.seeds)


if __name__ == "__main__":
    main()
