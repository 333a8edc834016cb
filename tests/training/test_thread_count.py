"""A resumed run uses as many threads as before, or says why not."""

import pytest
import torch

from runs import begin, tiny
from sasa.tasks.train import resume, train
from sasa.training import processes
from sasa.training.processes import restore_thread_count


@pytest.fixture(autouse=True)
def two_threads_on_four_cores(monkeypatch):
    """Other numbers of threads are possible up to 4; the number is restored afterwards."""
    monkeypatch.setattr(processes, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("recorded", "threads"), [(None, 2), (2, 2), (1, 1), (4, 4)])
def test_as_many_as_recorded(recorded, threads):
    assert restore_thread_count(recorded) is None
    assert torch.get_num_threads() == threads


def test_more_than_the_machine_has_is_an_error():
    assert restore_thread_count(64) == (
        "resuming with 2 threads where the run had 64: "
        "its results may differ from an uninterrupted run's in the last bits"
    )
    assert torch.get_num_threads() == 2


def test_omp_num_threads_wins_and_the_difference_is_reported(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "2 threads where the run had 1" in restore_thread_count(1)
    assert torch.get_num_threads() == 2


def test_a_run_records_its_threads_and_is_resumed_with_them(tmp_path, capsys):
    torch.set_num_threads(1)
    config = tiny(("recipe.epochs", 1), ("data.limit", 64))
    assert begin(config, tmp_path / "other")[0].state()["threads"] == 1
    train(config, tmp_path / "run")
    torch.set_num_threads(2)
    resume(tmp_path / "run")
    assert torch.get_num_threads() == 1
    assert "threads where" not in capsys.readouterr().err
