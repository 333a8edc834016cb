"""The parts of `python -m benchmarks.gpu` that need no GPU: its rows, saving and resuming, and its table."""

import json
from collections import Counter

import pytest
import torch

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.goals import GOALS, all_layers, table
from benchmarks.gpu.kernels import _shares
from benchmarks.gpu.record import OtherMachineError, Record
from benchmarks.gpu.rows import FAILED, Bench, Row
from benchmarks.gpu.shapes import LAYERS, Layer
from benchmarks.gpu.worker import Worker, all_rows
from sasa.models import create_model
from sasa.nn import LocalAttention2d

CPU = Bench("cpu", 2, quick=True)


def row(name: str) -> Row:
    return Row(name, lambda bench: {})


def test_the_layers_are_those_of_resnet_50():
    found: Counter[tuple[int, int]] = Counter()
    with torch.device("meta"):
        model = create_model("sasa_resnet50").eval()
        for module in model.modules():
            if isinstance(module, LocalAttention2d):
                module.register_forward_hook(
                    lambda layer, inputs, _: found.update([(layer.out_channels, inputs[0].shape[2])])
                )
        model(torch.empty(1, 3, 224, 224))
    assert {Layer(*key, count) for key, count in found.items()} == set(LAYERS)


def test_rows_have_names_of_their_own_and_one_process_for_each_back_end():
    rows = all_rows(Bench())
    assert len({row.name for row in rows}) == len(rows)
    backends = [row.backend for row in rows]
    assert backends == sorted(backends)  # "cuda" before "triton": the process changes once


def test_a_record_resumes_and_failed_rows_come_last(tmp_path):
    file = tmp_path / "found.json"
    record = Record(file)
    record.put("a", {FAILED: "no memory"})
    record.put("b", {"ms": float("nan")})
    assert json.loads(file.read_text())["rows"] == {"a": {FAILED: "no memory"}, "b": {"ms": "nan"}}
    again = Record(file)
    assert [r.name for r in again.missing([row("a"), row("b"), row("c")])] == ["c", "a"]


def test_results_of_another_gpu_are_refused(tmp_path):
    file = tmp_path / "found.json"
    record = Record(file)
    record.set_machine({"GPU": "one", "batch": 256})
    record.put("a", {"ms": 1.0})
    with pytest.raises(OtherMachineError, match="holds results with GPU one, this is another"):
        Record(file).set_machine({"GPU": "another", "batch": 256})


def test_all_layers_are_counted_as_often_as_the_network_has_them():
    found = {f"kernels {layer}": {"ms": 1.0} for layer in LAYERS}
    assert all_layers("ms")(found) == 16
    del found[f"kernels {LAYERS[0]}"]
    assert all_layers("ms")(found) is None


def test_the_table_says_what_was_not_measured_and_what_failed():
    found = {"launching, cuda": {"operator, ms": 0.03}, "gate float32 x": {"worst": 1.0, FAILED: "differs"}}
    lines = table(found).splitlines()
    assert "| launching the operator, ms | 0.03 | 0.02 | 0.05 | must |" in lines
    assert "| float32 without TF32, worst error | 1 | 2e-06 | 1e-05 | missed |" in lines
    assert sum("not measured" in line for line in lines) == len(GOALS) - 2
    assert lines[-1] == "failed: gate float32 x: differs"


def test_the_backward_pass_is_split_by_the_names_of_kernels():
    kernels = {"sasa_local_queries": 2.0, "sasa_local_keys": 1.0, "sasa_sum_parts": 1.0}
    assert _shares(kernels) == {"queries": 0.75, "keys": 0.25}
    assert _shares({}) == {}


def test_a_row_that_takes_too_long_is_stopped_and_its_process_replaced():
    worker = Worker("cuda", CPU)
    try:
        assert worker.usable
        assert worker.machine["GPU"] is None
        values = worker.run("limits", 0.001)
        assert values[FAILED] == "stopped after 0 s"
        assert not worker.usable
    finally:
        worker.stop()


def test_the_command_measures_saves_and_resumes(tmp_path, capfd):
    file = tmp_path / "found.json"
    command = ["--device", "cpu", "--quick", "--json", str(file), "--only", "gate stem, float32"]
    assert main(command) == 0
    assert json.loads(file.read_text())["rows"]["gate stem, float32"]["worst"] < 1e-5
    assert "1 of 1 rows measured" in capfd.readouterr().out
    assert main(command) == 0
    assert "started in" not in capfd.readouterr().out  # nothing was left to measure
