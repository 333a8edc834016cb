"""A training run of any task: from a config to a directory with weights, metrics and figures."""

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sasa.errors import SasaError, UsageError
from sasa.tasks.dry_run import on_generated, report, stand_in, time_steps
from sasa.tasks.registry import config_of, make_task, read_config
from sasa.training.loop import Trainer
from sasa.training.memory import batch_size_errors, keep_freed_memory, peak_memory_gb
from sasa.training.processes import end_process_group, make_fabric, restore_thread_count, union_over_processes
from sasa.training.reports import Progress, Reports
from sasa.training.run_directory import RunDirectory
from sasa.training.same_data import check_same_data, recorded_in
from sasa.training.settings import Config


def start(config: Config) -> Trainer:
    """Make all parts of a run, at step 0.

    Raises:
        UsageError, ArgumentError, DataError: an invalid config, option of the network or data set.
    """
    config.check()
    fabric = make_fabric(config.run)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return Trainer.start(config, fabric, make_task(config, fabric))


def train(config: Config, path: Path) -> dict[str, Any] | None:
    """Train from the first step into a new directory; return summary.json in the first process, None in others."""
    trainer = start(config.with_absolute_paths())  # before the directory: an error in the config leaves nothing behind
    directory = RunDirectory(path)
    if trainer.fabric.is_global_zero:
        directory.create(trainer.config)
        task = trainer.task
        for sentence in (*task.train.description, *task.held_out.description, *task.notes):
            sys.stderr.write(f"{sentence}\n")
    trainer.fabric.barrier()
    return _run(trainer, directory)


def resume(path: Path, changes: Sequence[tuple[str, Any]] = ()) -> dict[str, Any] | None:
    """Resume a run at its last complete checkpoint; return summary.json in the first process, None in others.

    Args:
        path: of the run.
        changes: settings of the machine, such as run.accelerator, and of the data's location; data.source is by default
            that of the run's config.yaml.

    Raises:
        DataError: the data is not what the run was trained on.
    """
    directory = RunDirectory(path)
    state, note = directory.load_checkpoint()
    config = config_of(state["config"]).without_initial_weights()
    if recorded := _recorded_config(path):
        config.data.source = recorded.data.source  # which the user may have edited
    for key, value in changes:
        config.set(key, value)
    trainer = start(config.with_absolute_paths())
    config = trainer.config
    check_same_data(config.data.source, recorded_in(path, state), trainer.data)
    trainer.load_state(state)
    notes = [note, restore_thread_count(state.get("threads"))]
    trainer.fabric.barrier()  # all processes must have read the checkpoint before the first one renames files
    if trainer.fabric.is_global_zero:
        for sentence in filter(None, notes):
            sys.stderr.write(f"sasa: {sentence}\n")
        if note:
            directory.set_damaged_aside()
        for place in (path, directory.best_path):  # `sasa eval` looks there for the data
            recorded = _recorded_config(place)
            if recorded and recorded.data.source != config.data.source:
                recorded.data.source = config.data.source
                RunDirectory(place).write_text("config.yaml", recorded.to_yaml())
        directory.write_metrics(trainer.rows)
    return _run(trainer, directory)


def _recorded_config(directory: Path) -> Config | None:
    """Return the config in config.yaml; None if it is missing or damaged, since the checkpoint has it as well."""
    try:
        return read_config(directory / "config.yaml")
    except (OSError, UsageError):
        return None


def dry_run(config: Config, steps: int = 2) -> dict[str, Any]:
    """Build everything, take a few steps, write nothing; return the report of the cost.

    If the data is a known set that is not on this machine, generated images are used, and the report says so.
    """
    if known := stand_in(config):
        return on_generated(config, known, steps)
    trainer = start(config)
    task = trainer.task
    seconds = time_steps(trainer, steps)
    return report(task, seconds[-1] if seconds else 0.0, task.steps)


def _run(trainer: Trainer, directory: RunDirectory) -> dict[str, Any] | None:
    task, fabric, first = trainer.task, trainer.fabric, trainer.fabric.is_global_zero
    progress = Progress(task.steps, trainer.step)
    run = trainer.config.run
    logged = dataclasses.replace(run, log_steps=min(run.log_steps, task.steps_per_epoch))
    reports = Reports(directory, progress, logged, trainer.step, silent=not first)
    try:
        with batch_size_errors(trainer.config.recipe, task.part), compiler_errors():
            score = trainer.run(directory, reports)
    finally:
        reports.close()
    skipped = union_over_processes(fabric, task.skipped)
    summary = None
    if first:
        summary = summarise(trainer, score, skipped)
        task.save(directory.path)
        directory.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
        if skipped:
            directory.write_text("skipped.txt", "".join(f"{name}\n" for name in skipped))
        task.skipped.update(skipped)  # also those of other processes: an image that cannot be read cannot be drawn
        task.draw(score, trainer.rows, directory.path)
    end_process_group(fabric)
    return summary


@contextlib.contextmanager
def compiler_errors() -> Iterator[None]:
    """Turn errors of torch.compile about the C++ compiler into a `SasaError` with advice.

    torch does not quote the paths in its commands.
    """
    try:
        yield
    except RuntimeError as error:
        if "InvalidCxxCompiler" in str(error):
            sentence = "needs a C++ compiler, and torch finds none: install g++ or set CXX, or leave run.compile out"
        elif "CppCompileError" in str(error) and " " in (place := tempfile.gettempdir()):
            sentence = f"cannot use {place} for temporary files, because of the space in it: set TMPDIR to another one"
        else:
            raise
        raise SasaError(f"run.compile {sentence}") from error


def summarise(trainer: Trainer, score: Any, skipped: list[str]) -> dict[str, Any]:
    """Return summary.json: the score on the held-out images, cost, size."""
    task = trainer.task
    return {
        "model": trainer.config.model,
        "data": trainer.config.data.source,
        **task.summary(score, trainer.rows),
        **{name: value for name, value in trainer.rows[-1].items() if name.startswith("last_")},
        "weights": "averaged" if trainer.average.decay else "last step",
        "warnings": list(trainer.warnings.values()),
        "training_pictures": len(task.train),
        "skipped_pictures": len(skipped),
        "epochs": trainer.config.recipe.epochs,
        "steps": trainer.step,
        "parameters": sum(p.numel() for p in task.network.parameters()),
        "spatial_convolutions": spatial_convolutions(task.network),
        "processes": trainer.fabric.world_size,
        "minutes": round(trainer.seconds / 60, 2),
        "peak_memory_gb": peak_memory_gb(),
    }


def spatial_convolutions(model: torch.nn.Module) -> int:
    """Count the network's convolutions with a kernel larger than 1."""
    return sum(isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1 for m in model.modules())
