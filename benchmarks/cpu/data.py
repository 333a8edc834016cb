"""Images a second of the data pipeline: decoding, augmentation, loader or memory, and a training step.

    python -m benchmarks.cpu.data [--data DIR_OF_PARQUET] [--count 4096] [--rounds 5] [--json FILE]

Measures the built-in digits and, with --data (CIFAR-10 as published on Hugging Face, or other parquet files of small
images), its first images in every format, written to a temporary directory. Prints Markdown tables whose rows are
measured in turns: medians over the rounds. Starting worker processes is not timed.
"""

import argparse
import itertools
import json
import pickle
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from sasa.data.classification import Source, Subset, open_splits
from sasa.data.classification.batch import Batch, training_loader
from sasa.data.classification.in_memory import InMemoryImages
from sasa.data.sampler import EpochBatches
from sasa.models import create_model
from sasa.tasks.classification.config import TrainConfig, resolve
from sasa.threads import cores
from sasa.training.memory import keep_freed_memory

FOREVER = 10_000  # epochs: the clock ends a feed, not the sampler
Side = Callable[[], float]  # one turn: images a second


def write_parquet(source: Source, root: Path) -> None:
    """Write a parquet file of PNG images, as Hugging Face does."""
    import pyarrow
    import pyarrow.parquet

    rows = [{"bytes": encoded(source, i, "PNG"), "path": f"{i}.png"} for i in range(len(source))]
    table = pyarrow.table({"img": rows, "label": list(source.labels)})
    pyarrow.parquet.write_table(table, root / "train-00000-of-00001.parquet", row_group_size=1000)


def write_class_directories(source: Source, root: Path, kind: str) -> None:
    """Write a directory for each class."""
    for i, label in enumerate(source.labels):
        directory = root / f"{label:03d}"
        directory.mkdir(exist_ok=True)
        (directory / f"{i:06d}.{kind.lower()}").write_bytes(encoded(source, i, kind))


def write_shards(source: Source, root: Path, of: int = 1000) -> None:
    """Write WebDataset shards: tar files of NAME.png and NAME.cls."""
    for first in range(0, len(source), of):
        with tarfile.open(root / f"train-{first // of:06d}.tar", "w") as tar:
            for i in range(first, min(first + of, len(source))):
                parts = {"png": encoded(source, i, "PNG"), "cls": str(source.labels[i]).encode()}
                for suffix, content in parts.items():
                    entry = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, BytesIO(content))


def write_cifar(source: Source, root: Path) -> None:
    """Write the "python version" of CIFAR-10, which torchvision downloads."""
    directory = root / "cifar-10-batches-py"
    directory.mkdir()
    pixels = np.stack([np.asarray(source.read(i)).transpose(2, 0, 1).reshape(-1) for i in range(len(source))])
    parts = np.arange(len(source) // 5 * 5).reshape(5, -1)  # files of equal size
    for name, part in [(f"data_batch_{n}", part) for n, part in enumerate(parts, 1)] + [("test_batch", parts[0])]:
        batch = {"data": pixels[part], "labels": [int(source.labels[i]) for i in part]}
        (directory / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {"label_names": list(source.classes), "num_cases_per_batch": len(parts[0]), "num_vis": 3072}
    (directory / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))


FORMATS: dict[str, Callable[[Source, Path], None]] = {
    "parquet (PNG)": write_parquet,
    "class directories, PNG": lambda source, root: write_class_directories(source, root, "PNG"),
    "class directories, JPEG": lambda source, root: write_class_directories(source, root, "JPEG"),
    "WebDataset tars (PNG)": write_shards,
    "torchvision's CIFAR directory": write_cifar,
}


def encoded(source: Source, index: int, kind: str) -> bytes:
    """Encode an image as a file of a kind, such as PNG."""
    stream = BytesIO()
    source.read(index).save(stream, kind)
    return stream.getvalue()


def loader_feed(source: Source, config: TrainConfig, workers: int) -> Iterator[Batch]:
    """Make training batches through the loader."""
    data, seed = config.data, config.run.seed
    batches = EpochBatches(len(source), config.recipe.batch_size, FOREVER, seed)
    return training_loader(source, data.preprocessing(), data.augmentation(), seed, batches, workers)


def memory_feed(source: Source, config: TrainConfig) -> Iterator[Batch]:
    """Make training batches from memory."""
    data, seed = config.data, config.run.seed
    images = InMemoryImages(source, data.preprocessing(), data.augmentation(), seed, "cpu")
    return map(images.training_batch, EpochBatches(len(source), config.recipe.batch_size, FOREVER, seed))


def per_second(count: int, work: Callable[[], object]) -> float:
    """Time `work`, which processes `count` images; in images a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def decode(source: Source, channels: int) -> Side:
    """Make a turn that reads every image."""
    return lambda: per_second(len(source), lambda: [source.read(i, channels) for i in range(len(source))])


def feed(make: Callable[[], Iterator[Batch]], count: int) -> Side:
    """Make a turn that reads batches; the first batch, which waits for the workers to start, is not timed."""

    def turn() -> float:
        batches = make()
        size = len(next(batches))
        steps = max(8, count // size)
        rate = per_second(steps * size, lambda: [len(batch) for batch in itertools.islice(batches, steps)])
        close(batches)
        return rate

    return turn


def training(make: Callable[[], Iterator[Batch]], config: TrainConfig, classes: int, steps: int) -> Side:
    """Make a turn of training steps: forward, cross-entropy, backward, SGD."""
    options = {**config.model, "num_classes": classes, "in_chans": config.data.channels}
    network = create_model(options.pop("name"), **options).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step(batch: Batch) -> int:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(network(images), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return len(batch)

    def turn() -> float:
        batches = make()
        size = step(next(batches))
        rate = per_second(steps * size, lambda: [step(batch) for batch in itertools.islice(batches, steps)])
        close(batches)
        return rate

    return turn


def close(batches: Iterator[Batch]) -> None:
    """Close a feed and its workers."""
    getattr(batches, "close", lambda: None)()


def measure(title: str, sides: dict[str, Side], rounds: int, report: dict[str, dict[str, list[float]]]) -> None:
    """Measure the sides in turns, in a rotating order, and print the table of medians."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rate = sides[name]()
            if turn:  # the first round fills caches
                rates[name].append(rate)
    print(f"\n| {title} | images/s | lowest to highest |\n|---|---:|---:|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {min(found):,.0f} to {max(found):,.0f} |", flush=True)
    report[title] = rates


def feeds(source: Source, config: TrainConfig) -> dict[str, Callable[[], Iterator[Batch]]]:
    """List the three ways to make batches."""
    return {
        "loader, no workers": lambda: loader_feed(source, config, 0),
        "loader, 2 workers": lambda: loader_feed(source, config, 2),
        "in memory": lambda: memory_feed(source, config),
    }


def compare(name: str, source: Source, config: TrainConfig, arguments: argparse.Namespace, report: dict) -> None:
    """Measure both kinds of crops without a network, then the config's training step, fed in three ways."""
    for crop in ("pad", "resized"):
        sides = {way: feed(make, arguments.count) for way, make in feeds(source, changed(config, crop=crop)).items()}
        measure(f"{name}: decode and augment, crop {crop}", sides, arguments.rounds, report)
    policy = "rand-m9-mstd0.5-inc1"
    of_policy = feeds(source, changed(config, auto_augment=policy))
    sides = {way: feed(make, arguments.count) for way, make in of_policy.items() if way != "in memory"}
    measure(f"{name}: decode and augment, crop pad, {policy}", sides, arguments.rounds, report)
    steps = {
        way: training(make, config, len(source.classes), arguments.steps) for way, make in feeds(source, config).items()
    }
    measure(f"{name}: training step", steps, arguments.rounds, report)


def changed(config: TrainConfig, **data: object) -> TrainConfig:
    """Copy a config and set fields of its data section."""
    copy = TrainConfig.from_dict(config.to_dict())
    for key, value in data.items():
        copy.set(f"data.{key}", value)
    return copy


def digits(arguments: argparse.Namespace, report: dict) -> None:
    """Measure the built-in digits."""
    config = resolve("digits", [])
    source, _ = open_splits("digits", 0.2, 0)
    measure("digits: decode alone", {"digits": decode(source, 1)}, arguments.rounds, report)
    decode_once("digits", source, config, report)
    compare("digits", source, config, arguments, report)


def formats(arguments: argparse.Namespace, report: dict) -> None:
    """Measure the images of parquet files in every format."""
    whole, _ = open_splits(arguments.data, 0.2, 0)
    first = Subset(whole, range(min(arguments.count, len(whole))))
    config = resolve("cifar10_small", [("model.kernel_size", 5)])  # row k5 of Table 4
    with tempfile.TemporaryDirectory() as temporary:
        sources: dict[str, Source] = {}
        for number, (name, write) in enumerate(FORMATS.items()):
            root = Path(temporary) / f"{number}"
            root.mkdir()
            write(first, root)
            sources[name], _ = open_splits(str(root), 0.05, 0)
        sides = {name: decode(source, 3) for name, source in sources.items()}
        measure("formats: decode alone", sides, arguments.rounds, report)
        for workers in (0, 2):
            sides = {
                name: feed(lambda s=source, w=workers: loader_feed(s, config, w), arguments.count)
                for name, source in sources.items()
            }
            title = f"formats: decode and augment, loader, {workers} workers"
            measure(title, sides, arguments.rounds, report)
        sides = {
            name: training(lambda s=source: loader_feed(s, config, 0), config, len(source.classes), arguments.steps)
            for name, source in sources.items()
        }
        measure("formats: training step, loader, 0 workers", sides, arguments.rounds, report)
        for name, source in sources.items():
            decode_once(name, source, config, report)
        compare("parquet", sources["parquet (PNG)"], config, arguments, report)


def decode_once(name: str, source: Source, config: TrainConfig, report: dict) -> None:
    """Measure how long a run with data.in_memory decodes before its first step."""
    began = time.perf_counter()
    memory_feed(source, config)
    seconds = time.perf_counter() - began
    print(f"\n{name}: {len(source):,} images decoded into memory in {seconds:.2f} s", flush=True)
    report[f"{name}: seconds to decode {len(source)} images into memory"] = {"in memory": [seconds]}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="directory of parquet files, or a parquet file [default: the digits alone]")
    parser.add_argument("--count", type=int, default=4096, help="images in a turn")
    parser.add_argument("--steps", type=int, default=16, help="training steps in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every round here as well")
    arguments = parser.parse_args()
    import torchvision.transforms.v2  # noqa: F401 - importing it takes a second, which is not decoding

    keep_freed_memory()  # as `sasa train` does
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {cores()} cores, {arguments.rounds} rounds")
    report: dict[str, dict[str, list[float]]] = {}
    digits(arguments, report)
    if arguments.data:
        formats(arguments, report)
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "cores": cores(), "rates": report}, indent=1))


if __name__ == "__main__":
    main()
