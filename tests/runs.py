"""Helpers of the tests of training: a tiny network on the digits, and runs of it."""

import io
from pathlib import Path

import torch

from sasa.data.classification import open_splits
from sasa.tasks.classification.config import resolve
from sasa.tasks.train import start
from sasa.training.reports import Reports
from sasa.training.run_directory import RunDirectory

TINY = [
    ("model.width", 0.05),
    ("model.num_heads", 2),
    ("model.kernel_size", 3),
    ("model.layers", [1, 1, 1, 1]),
    ("model.stem_block", 4),
    ("data.limit", 256),
    ("data.in_memory", False),
    ("recipe.epochs", 2),
    ("recipe.batch_size", 32),
    ("recipe.optimizer", "sgd"),
    ("recipe.learning_rate", 0.05),
    ("recipe.weight_decay", 5e-4),
    ("run.log_steps", 1),
    ("run.tensorboard", False),
    ("run.accelerator", "cpu"),
]


def tiny(*changes):
    """The recipe for the digits with SGD, but 2 epochs of 8 steps of 32 images."""
    return resolve("digits", [*TINY, *changes])


def settings(*changes):
    """`tiny` as arguments of the command line."""
    return ["--config", "digits", *(w for key, value in (*TINY, *changes) for w in ("--set", f"{key}={value}"))]


def quiet(trainer, directory):
    """Reports to the log files only."""
    return Reports(directory, None, trainer.config.run, trainer.step)


def begin(config, path):
    """A trainer and its directory, made as `train` makes them."""
    trainer = start(config)
    directory = RunDirectory(path)
    path.mkdir(parents=True, exist_ok=True)
    directory.create(config)
    return trainer, directory


def state_of(path, name="checkpoint.pt"):
    """The training state of a run, without what depends on the time and the directory."""
    state = torch.load(Path(path) / name, weights_only=True)
    for row in state["rows"]:
        row.pop("images_per_second")
    state["totals"].pop("seconds")
    state.pop("seconds")
    state.pop("config")
    return state


def assert_equal(a, b, where=""):
    """Assert equality bit for bit, through dictionaries and lists."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{number}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def write_digits(root, kind, count=400):
    """Write scikit-learn's first digits as a "folder" (PNGs, a directory for each class) or "parquet"; its path."""
    train, _ = open_splits("digits", 0.5, 0)
    images = []
    for index in range(count):
        content = io.BytesIO()
        train.read(index, 1).save(content, "PNG")
        images.append((train.labels[index], content.getvalue()))
    return {"folder": _write_folder, "parquet": _write_parquet}[kind](Path(root), images)


def _write_folder(root, images):
    for number, (label, content) in enumerate(images):
        path = root / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def _write_parquet(root, images):
    import pyarrow
    import pyarrow.parquet

    rows = {
        "image": [{"bytes": content, "path": f"{number}.png"} for number, (_, content) in enumerate(images)],
        "label": [label for label, _ in images],
    }
    root.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(rows), root / "train.parquet")
    return root
