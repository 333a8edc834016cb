"""Choose the recipe of `make demo`: accuracy on a validation set, and time beside the convolutional twin.

    python -m benchmarks.training.demo accuracy --seeds 0 1 2 --set model.width=0.75 recipe.epochs=20
    python -m benchmarks.training.demo speed --threads 1 --set model.width=0.75 model.num_heads=4

`accuracy` splits a validation set off the training set of each seed, trains on the rest, and scores the weights that a
run would keep. The held-out images are not used. `speed` times the untrained network
beside its convolutional twin.
"""

import argparse
import statistics

from sasa.data.classification import split
from sasa.speed import ratios, spread, torch_threads
from sasa.speed.pair import OURS, PASSES, TWIN, pair_of_config
from sasa.tasks.classification.config import TrainConfig, resolve
from sasa.tasks.classification.task import Classification, open_training_data
from sasa.training.loop import Trainer
from sasa.training.processes import make_fabric
from sasa.training.settings import parse_setting

ROUNDS, SECONDS = 40, 1.5


def validation_errors(config: TrainConfig) -> tuple[int, int]:
    """Train once; return the errors of the final weights, and the number of validation images."""
    train, _ = open_training_data(config)
    fabric = make_fabric(config.run)
    task = Classification(config, fabric, split(train, config.data.held_out, 1000 + config.run.seed))
    trainer = Trainer.start(config, fabric, task)
    batches = task.batches(0)
    trainer.model.train()
    while trainer.step < task.steps:
        trainer.train_step(batches)
    trainer.average.finish()
    score = task.score(trainer.model)
    return round((1 - score.top1) * score.count), score.count


def accuracy(changes: list[tuple[str, object]], seeds: list[int]) -> None:
    """Print errors by seed, and the mean accuracy."""
    found = []
    for seed in seeds:
        found.append(validation_errors(resolve("digits", [*changes, ("run.seed", seed)])))
        print(f"seed {seed}: {found[-1][0]} of {found[-1][1]} wrong", flush=True)
    print(f"mean {100 * statistics.fmean(1 - errors / count for errors, count in found):.2f} %")


def speed(changes: list[tuple[str, object]]) -> None:
    """Print milliseconds a batch and the ratio, in training and inference."""
    pair = pair_of_config(resolve("digits", changes))
    for passed in PASSES:
        times = pair.time(passed, ROUNDS, SECONDS)
        ours, twin = (pair.batch_size * spread(times[side]).median for side in (OURS, TWIN))
        ratio = spread(ratios(times[OURS], times[TWIN])).median
        print(f"{passed}: {ours:.1f} ms, twin {twin:.1f} ms, ratio {ratio:.2f}", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "speed"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the recipe `digits`")
    arguments = parser.parse_args()
    changes = [parse_setting(text) for text in arguments.set]
    with torch_threads(arguments.threads):
        speed(changes) if arguments.what == "speed" else accuracy(changes, arguments.seeds)


if __name__ == "__main__":
    main()
