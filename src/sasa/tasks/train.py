"""A training run of any task: from a config to a directory with weights, metrics and figures."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from sasa.errors import UsageError, compiler_errors
from sasa.files import write_file
from sasa.models.publish import Figures
from sasa.tasks.dry_run import on_generated, report, stand_in, time_steps
from sasa.tasks.registry import config_of, make_task, read_config
from sasa.training.loop import Trainer
from sasa.training.memory import batch_size_errors, keep_freed_memory, peak_memory_gb
from sasa.training.processes import end_process_group, is_first, make_fabric, restore_thread_count, union_over_processes
from sasa.training.reports import Progress, Reports
from sasa.training.run_directory import RunDirectory
from sasa.training.same_data import check_same_data, read_json, recorded_in
from sasa.training.settings import Config
from sasa.training.signals import StopRequest

ON_CARD = {  # keys of summary.json, and the words for them on a model card
    "held_out_top1": "top-1 accuracy",
    "held_out_top5": "top-5 accuracy",
    "held_out_map": "mean average precision (50:95)",
    "held_out_map50": "mean average precision (50)",
    "held_out_loss": "cross-entropy",
    "held_out_pictures": "held-out images",
    "training_pictures": "training images",
    "epochs": "epochs",
}


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
    """Train from the first step into a new directory; return summary.json in the first process, None in others.

    Raises:
        UsageError: the directory is that of the data; and what `start` raises.
        SasaError: the directory holds a run, or cannot be written.
    """
    config = config.with_absolute_paths()
    source = Path(config.data.source)
    if source.is_absolute() and source.resolve() == path.resolve():
        raise UsageError(
            f"{path} is the directory of the data, and the run would add files to it: name another --output"
        )
    trainer = start(config)  # before the directory: an error in the config leaves nothing behind
    directory = RunDirectory(path)
    # From here on a signal leaves a run that can be resumed, or, while the results are written, a complete one.
    with directory.locked() if trainer.fabric.is_global_zero else nullcontext(), StopRequest():
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
        SasaError: no checkpoint that can be read, or another process trains in the directory.
        DataError: the data is not what the run was trained on.
    """
    directory = RunDirectory(path)
    with directory.locked() if is_first() and directory.checkpoints else nullcontext():
        return _resume(directory, changes)


def _resume(directory: RunDirectory, changes: Sequence[tuple[str, Any]]) -> dict[str, Any] | None:
    path = directory.path
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
                write_file(place / "config.yaml", recorded.to_yaml())
        directory.write_metrics(trainer.rows)
    with StopRequest():
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
        with batch_size_errors(trainer.config.recipe, task.part), compiler_errors("run.compile"):
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


def run_figures(directory: Path) -> Figures | None:
    """Return the figures of a run for its model card; None without a summary.json that can be read."""
    summary = read_json(directory / "summary.json")
    if not summary:
        return None
    rows = [(text, summary[name]) for name, text in ON_CARD.items() if summary.get(name) is not None]
    data = Path(str(summary.get("data", ""))).name  # the name alone: the path is private
    return Figures("Measured by `sasa train` on held-out images" + (f" of `{data}`." if data else "."), rows)


def spatial_convolutions(model: torch.nn.Module) -> int:
    """Count the network's convolutions with a kernel larger than 1."""
    return sum(isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1 for m in model.modules())
