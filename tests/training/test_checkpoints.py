"""Checkpoints: a complete one always exists, they run no code, and those of earlier versions can be resumed."""

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from pickles import MakesDirectory
from processes import run_python
from runs import assert_equal, begin, quiet, state_of, tiny
from sasa.errors import SasaError
from sasa.files import write_errors
from sasa.tasks.train import resume, train
from sasa.training import run_directory
from sasa.training.run_directory import CHECKPOINT_FORMAT, RunDirectory

HERE = Path(__file__).parent
STATE = {"step": 1, "model": {"w": torch.ones(100)}}


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path)
    for step in (1, 2):
        directory.save_checkpoint({**STATE, "step": step})
    return directory


def test_the_last_of_two_is_read(directory):
    state, note = directory.load_checkpoint()
    assert (state["step"], note) == (2, None)


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(SasaError, match="holds no checkpoint to resume from"):
        RunDirectory(tmp_path).load_checkpoint()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_damaged_last_one_falls_back_to_the_one_before(directory, kept):
    content = directory.checkpoint_path.read_bytes()
    directory.checkpoint_path.write_bytes(content[: int(kept * len(content))])
    state, note = directory.load_checkpoint()
    assert state["step"] == 1
    assert "checkpoint.pt is damaged" in note
    assert note.endswith("resuming from checkpoint.previous.pt, step 1")
    directory.set_damaged_aside()
    directory.save_checkpoint({**STATE, "step": 5})
    directory.checkpoint_path.unlink()
    assert directory.load_checkpoint()[0]["step"] == 1  # the damaged one did not replace the good one


def test_a_missing_last_one_falls_back_too(directory):
    directory.checkpoint_path.unlink()
    state, note = directory.load_checkpoint()
    assert state["step"] == 1
    assert "is missing; resuming from checkpoint.previous.pt" in note


def test_two_damaged_ones_are_an_error(directory):
    for path in (directory.checkpoint_path, directory.previous_path):
        path.write_bytes(b"nonsense")
    with pytest.raises(SasaError, match=r"checkpoint\.pt is damaged.*; .*previous\.pt is damaged"):
        directory.load_checkpoint()


def test_what_a_killed_process_left_is_removed(directory):
    """A temporary file may be as large as a checkpoint."""
    directory.best_path.mkdir()
    left = [
        directory.path / ".checkpoint.pt.0123456789abcdef",
        directory.best_path / ".model.safetensors.00000000000000ff",
    ]
    others = [directory.path / name for name in (".hidden", ".notes.0123456789abcdef.txt", "a.0123456789abcdef")]
    for path in (*left, *others):
        path.write_text("")
    with directory.locked():
        assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*others, directory.checkpoint_path, directory.previous_path))


def test_a_pickle_that_would_run_is_refused_and_not_run(tmp_path):
    directory, marker = RunDirectory(tmp_path), tmp_path / "marker"
    torch.save({**STATE, "format": CHECKPOINT_FORMAT, "evil": MakesDirectory(marker)}, directory.checkpoint_path)
    with pytest.raises(SasaError, match="is damaged or not a checkpoint"):
        directory.load_checkpoint()
    assert not marker.exists()


def test_another_format_is_an_error(tmp_path):
    directory = RunDirectory(tmp_path)
    torch.save({"format": 99}, directory.checkpoint_path)
    with pytest.raises(SasaError, match="has format 99; this version reads checkpoints of format 2"):
        directory.load_checkpoint()


def test_a_disk_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(SasaError, match=r"cannot write .*checkpoint\.pt: No such file"):
        RunDirectory(tmp_path / "gone").save_checkpoint(STATE)


@contextlib.contextmanager
def full_disk(path):
    """In place of `atomic_file`: a file on which every write fails as on a full disk."""
    with Path("/dev/full").open("wb", buffering=0) as file:
        yield file


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_and_the_checkpoint_stays(directory, monkeypatch):
    """torch.save raises a RuntimeError about an unexpected position, whose context is the system's error."""
    before = directory.checkpoint_path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "atomic_file", full_disk)
        for _ in range(2):
            with pytest.raises(SasaError, match=r"cannot write .*checkpoint\.pt: No space left on device") as full:
                directory.save_checkpoint({**STATE, "step": 3})
            assert full.value.exit_status == 1
            assert directory.checkpoint_path.read_bytes() == before
    state, note = directory.load_checkpoint()
    assert (state["step"], note) == (2, None)
    directory.save_checkpoint({**STATE, "step": 3})
    assert directory.load_checkpoint()[0]["step"] == 3


def test_a_full_disk_during_a_run_is_an_error_and_the_run_resumes(tmp_path, monkeypatch):
    train(config := tiny(("run.checkpoint_steps", 3)), tmp_path / "whole")
    save, saved = run_directory.atomic_file, []

    @contextlib.contextmanager
    def full_after_two(path):
        saved.append(path.name)
        with full_disk(path) if saved.count("checkpoint.pt") > 2 else save(path) as file:
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "atomic_file", full_after_two)
        with pytest.raises(SasaError, match=r"cannot write .*checkpoint\.pt: No space left on device"):
            train(config, tmp_path / "run")
    assert RunDirectory(tmp_path / "run").load_checkpoint()[0]["step"] == 6
    resume(tmp_path / "run")
    assert_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "run"))


def test_other_errors_are_not_taken_for_a_full_disk(directory):
    with pytest.raises(RuntimeError, match="torch's own"), write_errors(directory.path):
        raise RuntimeError("torch's own")
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), PermissionError(errno.EACCES, "Permission denied")):
        with pytest.raises(SasaError, match=error.strerror), write_errors(directory.path):
            raise error


def test_the_state_opens_with_weights_only_and_is_plain(tmp_path):
    trainer, directory = begin(tiny(("recipe.optimizer", "adamw")), tmp_path / "run")
    reports = quiet(trainer, directory)
    trainer.take_step(trainer.task.batches(0), directory, reports)
    trainer.save(directory)
    reports.close()
    state = torch.load(directory.checkpoint_path, weights_only=True)
    assert state["step"] == 1
    assert {"model", "average", "optimizer", "precision", "totals", "rows", "best", "config"} <= set(state)


def test_a_checkpoint_of_format_2_can_be_resumed(tmp_path):
    """Made in the middle of an epoch when the format was new: what later versions must still read."""
    shutil.copy(HERE / "checkpoints" / "format2.pt", tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 11
    assert resume(tmp_path)["steps"] == 16


def test_killed_fifty_times_while_writing_there_is_always_one_that_loads(tmp_path):
    """A process writes checkpoints without pause and is killed at a random moment; 50 times, in one directory."""
    assert run_python(HERE / "write_until_killed.py", tmp_path, 50).split()[0] == "50"
