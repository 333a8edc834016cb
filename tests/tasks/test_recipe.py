"""The settings of a recipe: each does what it says, and changes nothing else."""

import csv
import platform
import subprocess
import sys

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision

from runs import assert_equal, state_of, tiny, write_digits
from sasa.data.classification.batch import Batch
from sasa.errors import ArgumentError, DataError, DivergedError, SasaError
from sasa.models import create_model
from sasa.tasks.classification.evaluation import evaluate
from sasa.tasks.classification.predictor import Predictor
from sasa.tasks.train import dry_run, start, train
from sasa.training.memory import batch_size_errors
from sasa.training.reports import StepLog


def after(steps, *changes):
    """The trainer after some steps."""
    trainer = start(tiny(*changes))
    parts = trainer.task.batches(0)
    trainer.model.train()
    for _ in range(steps):
        trainer.train_step(parts)
    return trainer


def largest_difference(a, b):
    pairs = zip(a.task.network.parameters(), b.task.network.parameters(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in pairs)


def test_gradient_checkpointing_changes_neither_weights_nor_statistics():
    plain, checkpointed = after(5), after(5, ("run.gradient_checkpointing", True))
    assert checkpointed.task.network.grad_checkpointing
    a, b = (t.task.network.state_dict() for t in (plain, checkpointed))
    for name, tensor in a.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, b[name], rtol=1e-5, atol=1e-6)


def test_clipping_limits_the_gradient():
    free, clipped = after(1), after(1, ("recipe.clip_grad_norm", 0.01))
    norm = torch.stack([p.grad.norm() for p in clipped.task.network.parameters()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)
    assert largest_difference(free, clipped) > 0


def test_a_gradient_that_is_not_finite_is_not_clipped_and_applied():
    trainer = start(tiny(("recipe.clip_grad_norm", 1.0)))
    weight = trainer.task.network.fc.weight.detach().clone()
    trainer.task.network.fc.weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(DivergedError, match=r"the gradient is not finite at step 0 .* on the images digit "):
        trainer.train_step(trainer.task.batches(0))
    assert torch.equal(trainer.task.network.fc.weight, weight)


def test_a_float16_step_whose_scale_is_too_large_is_left_out(monkeypatch):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # pyright: ignore[reportPrivateImportUsage]
    half = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    monkeypatch.setattr("sasa.tasks.train.make_fabric", lambda run: half)
    trainer = start(tiny(("recipe.clip_grad_norm", 1.0)))
    weight = trainer.task.network.fc.weight.detach().clone()
    trainer.train_step(trainer.task.batches(0))
    assert scaler.get_scale() == 2.0**39
    assert torch.equal(trainer.task.network.fc.weight, weight)


def test_accumulation_makes_the_mean_of_the_parts():
    """Batch norm sees the parts alone, so the gradient is the mean of the parts' gradients."""
    whole = after(1, ("recipe.accumulate", 4))
    trainer = start(tiny(("recipe.accumulate", 4)))
    trainer.model.train()
    parts = trainer.task.batches(0)
    sums = None
    for _ in range(4):
        loss, _ = trainer.task.loss(trainer.model, next(parts), 0)
        found = torch.autograd.grad(loss, list(trainer.task.network.parameters()))
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    for parameter, gradient in zip(whole.task.network.parameters(), sums, strict=True):
        torch.testing.assert_close(parameter.grad, gradient / 4, rtol=1e-4, atol=1e-6)


def test_a_batch_of_images_that_cannot_be_read_leaves_batch_norm_alone():
    trainer = start(tiny(("recipe.accumulate", 2)))
    parts = trainer.task.batches(0)
    trainer.train_step(parts)
    before = {name: buffer.clone() for name, buffer in trainer.task.network.named_buffers() if "running" in name}
    nothing = Batch(torch.empty(0, 1, 24, 24), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    assert trainer.train_step(iter([nothing, nothing])) == 0
    after_it = dict(trainer.task.network.named_buffers())
    for name, buffer in before.items():
        torch.testing.assert_close(after_it[name], buffer)
    trainer.train_step(parts)
    assert not torch.equal(after_it["stem.norm.running_mean"], before["stem.norm.running_mean"])


def test_adamw_decays_weights_apart_from_the_gradient():
    trainer = after(1, ("recipe.optimizer", "adamw"), ("recipe.weight_decay", 0.5))
    assert isinstance(trainer.optimizer.optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.5, 0.0]


def test_bfloat16_trains():
    trainer = after(3, ("run.precision", "bf16-mixed"))
    assert all(p.dtype == torch.float32 for p in trainer.task.network.parameters())
    assert all(torch.isfinite(p).all() for p in trainer.task.network.parameters())
    assert largest_difference(after(3), trainer) > 0


@pytest.mark.parametrize("change", [("recipe.mixup", 0.2), ("recipe.cutmix", 1.0), ("recipe.label_smoothing", 0.1)])
def test_targets_that_are_shared_between_classes_train(change):
    assert largest_difference(after(2), after(2, change)) > 0
    assert largest_difference(after(2, change), after(2, change)) == 0


def test_the_averaged_weights_are_scored_and_saved(tmp_path):
    summary = train(tiny(("recipe.ema_decay", 0.9)), tmp_path / "run")
    state = state_of(tmp_path / "run")
    network = create_model(tmp_path / "run")
    saved = network.state_dict()
    for name, tensor in state["average"].items():
        assert torch.equal(saved[name], tensor)
    assert not all(torch.equal(saved[name], state["model"][name]) for name in saved)
    assert state["rows"][-1]["held_out_top1"] == summary["held_out_top1"]


def test_the_best_weights_are_kept(tmp_path):
    summary = train(tiny(("recipe.epochs", 3)), tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert summary["best_top1"] == max(float(row["held_out_top1"]) for row in rows)
    best = tmp_path / "run" / "best"
    assert create_model(best).metadata["labels"] == [str(n) for n in range(10)]
    assert evaluate(Predictor.load(best), str(best)).summary()["held_out_top1"] == summary["best_top1"]


def test_in_memory_trains_as_well(tmp_path):
    summary = train(tiny(("data.in_memory", True), ("recipe.epochs", 6)), tmp_path / "run")
    assert summary["held_out_top1"] > 0.15
    with pytest.raises(ArgumentError, match=r"cannot do data\.auto_augment 'rand-m9'"):
        train(tiny(("data.in_memory", True), ("data.auto_augment", "rand-m9")), tmp_path / "other")


def test_steps_are_logged_for_tensorboard_and_cut_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, values in ((0, [1.0, 2.0, 3.0, 4.0]), (2, [30.0, 40.0])):  # the second resumes at step 2
        log = StepLog(tmp_path, first, 1, True)
        for step, value in enumerate(values, first + 1):
            log.step(step, 0.1, value, 10.0)
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    rows = list(csv.DictReader((tmp_path / "steps.csv").read_text().splitlines()))
    assert [(row["step"], row["loss"]) for row in rows] == [("1", "1.0"), ("2", "2.0"), ("3", "30.0"), ("4", "40.0")]


def test_a_row_that_a_crash_cut_short_is_dropped(tmp_path):
    text = "step,learning_rate,loss,images_per_second\n1,0.1,2.0,30.0\n2,0.1,2."
    (tmp_path / "steps.csv").write_text(text)
    StepLog(tmp_path, 5, 1, False).close()
    assert (tmp_path / "steps.csv").read_text() == text.rpartition("2,")[0]


def test_out_of_memory_is_an_error_with_advice():
    recipe = tiny().recipe
    sentence = r"out of memory in a step of 32 images: try --set recipe.accumulate=2"
    cuda, cpu = torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("can't allocate memory")
    for error in (cuda, cpu, MemoryError()):
        with pytest.raises(SasaError, match=sentence), batch_size_errors(recipe, 32):
            raise error
    with pytest.raises(RuntimeError, match="something else"), batch_size_errors(recipe, 32):
        raise RuntimeError("something else")


def test_freed_memory_is_kept_if_the_c_library_can():
    code = (
        "import resource, torch; from sasa.training.memory import keep_freed_memory\n"
        "kept = keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3): torch.ones(2**24)\n"
        "def ten():\n"
        "    before = faults()\n"
        "    for _ in range(10): torch.ones(2**24)\n"  # 64 MB each: 16,384 pages
        "    return faults() - before\n"
        "print(int(kept), min(ten() for _ in range(3)))"  # the system may take pages back in between
    )
    kept, faults = map(
        int, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    )
    assert kept == (platform.libc_ver()[0] == "glibc")
    if kept:
        assert faults < 5000


def test_a_batch_of_one_pixel_is_an_error(tmp_path):
    with pytest.raises(SasaError, match="batch norm needs more than one value for each channel, and has one"):
        train(tiny(("recipe.batch_size", 1), ("data.limit", 2)), tmp_path / "run")


def test_a_batch_of_which_one_image_can_be_read_is_named_as_such(tmp_path):
    source = write_digits(tmp_path / "data", "folder", 60)
    for path in sorted(source.rglob("*.png"))[::2]:
        path.write_bytes(b"")
    changes = [("data.source", str(source)), ("data.on_bad_image", "skip"), ("recipe.batch_size", 2)]
    with pytest.raises(SasaError, match="micro-batches are of 2 images, of which only one could be read"):
        train(tiny(*changes), tmp_path / "run")


def test_a_run_that_can_read_no_image_is_an_error(tmp_path):
    for split in ("train", "val"):
        write_digits(tmp_path / "data" / split, "folder", 40)
    for path in (tmp_path / "data" / "train").rglob("*.png"):
        path.write_bytes(b"")
    changes = [("data.source", str(tmp_path / "data")), ("data.on_bad_image", "skip")]
    with pytest.raises(DataError, match=r"none of the training images could be read, such as .*\.png"):
        train(tiny(*changes), tmp_path / "run")


def test_a_dry_run_with_accumulation():
    report = dry_run(tiny(("recipe.accumulate", 2)))
    assert report["steps"] == 16


def test_runs_are_a_function_of_the_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny(("run.seed", seed), ("recipe.epochs", 1)), tmp_path / name)
    a, b, c = (state_of(tmp_path / name) for name in "abc")
    assert_equal(a, b)
    with pytest.raises(AssertionError):
        assert_equal(a["model"], c["model"])
