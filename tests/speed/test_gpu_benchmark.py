"""What of benchmarks/gpu.py a CPU can check: what is compared, what is computed from times, when it ends and how."""

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from sasa.ops import local_attention
from sasa.speed import Setting
from sasa.speed.flex import flex_attention

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import gpu
    import gpu_acceptance
    import gpu_networks
    import gpu_operator
    from gpu_ceilings import Ceilings
    from gpu_device import Cycle, Device
    from gpu_gradients import failures
    from gpu_run import Limit, Record, Row, lines_of, plain
    from gpu_shapes import OPTIONS, Bench, cost, operands
finally:
    sys.path.remove(str(BENCHMARKS))

CPU = Device("cpu")
CEILINGS = Ceilings(copy=4e12, matmul=8e14, copied=0, size=0)
TINY = Setting(batch=2, side=32, layers=(1, 1, 1, 1), rounds=1, seconds=1.0)
QUICK = ("--device", "cpu", "--quick")


@pytest.fixture(autouse=True)
def _precision_is_put_back():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def parts(monkeypatch):
    """Parts of the command: what is put here."""
    found = {}
    monkeypatch.setattr(gpu, "PARTS", found)
    return found


def part(*rows):
    """A part with these rows."""

    def rows_of(bench):
        """A part."""
        return list(rows)

    return rows_of


def gives(**line):
    return Row({"map": "a"}, lambda: [line])


# What is compared


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_narrow_heads_of_flex_attention_are_padded_and_give_the_reference():
    one = operands(2, 64, 9, CPU)  # 8 channels a head
    tensors = [tensor.float() for tensor in (*one.maps, *one.rels)]
    got = flex_attention(9, least=16, compiled=False)(*tensors)
    want = local_attention(*tensors, **OPTIONS, padding="mask", backend="reference")
    assert got.shape == want.shape
    torch.testing.assert_close(got, want)


def test_a_contender_that_computes_something_else_is_not_timed():
    one = operands(2, 16, 9, CPU)
    right = gpu_operator.unfold(Bench(TINY, CPU, CEILINGS), 16, 9)
    assert gpu_operator.checked("unfold", right, right, one, True) < gpu_operator.TOLERANCE
    wrong = gpu_operator.Contender(functools.partial(local_attention, **OPTIONS, scale=0.5), right.take)
    with pytest.raises(gpu_operator.DiffersError, match="half differs from the reference by"):
        gpu_operator.checked("half", wrong, wrong, one, True)


def test_without_positions_the_interior_alone_is_compared():
    def shifted(*tensors):
        output = local_attention(*tensors, **OPTIONS).clone()
        output[:, :, 0] = 7
        return output

    one = operands(2, 16, 9, CPU)
    other = gpu_operator.Contender(shifted, lambda one: one.maps, positions=False, computes=gpu_operator.INTERIOR)
    assert gpu_operator.checked("shifted", other, other, one, True) < gpu_operator.TOLERANCE


def test_the_library_has_a_baseline_of_its_own_where_torchvision_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models.resnet", None)
    gpu_networks.baseline.cache_clear()
    try:
        assert gpu_networks.baseline()[0] == "sasa"
        assert "cannot be imported" in gpu_networks.baseline()[1]
        assert gpu_networks.make("baseline", TINY).eval()(torch.randn(1, 3, 32, 32)).shape == (1, 1000)
    finally:
        gpu_networks.baseline.cache_clear()


def test_a_network_has_a_line_for_each_side():
    lines = gpu_networks.beside_baseline(Bench(TINY, CPU, CEILINGS), "training", False, 2)
    assert [line["network"] for line in lines] == ["baseline", "full", "convstem"]
    assert all(line["TFLOP/s"] > 0 and line["ms"] > 0 for line in lines)
    assert lines[0]["ratio"] == 1
    assert "resnet50" in lines[0]["note"]


# Arithmetic


def test_percent_of_the_nearer_ceiling():
    assert CEILINGS.columns(flops=8e11, moved=2e9, milliseconds=2.0) == {
        "TFLOP/s": 400.0, "GB/s": 1000.0, "% of ceiling": 50.0, "ceiling": "matmul",
    }  # fmt: skip
    by_bytes = CEILINGS.columns(flops=8e9, moved=4e9, milliseconds=4.0)
    assert (by_bytes["% of ceiling"], by_bytes["ceiling"]) == (25.0, "copy")
    assert CEILINGS.columns(8e11, None, 2.0)["GB/s"] is None


def test_forward_and_backward_cost_the_sum():
    forward, backward = (cost(2, 64, 56, name) for name in ("forward", "backward"))
    assert cost(2, 64, 56, "forward + backward") == (forward[0] + backward[0], forward[1] + backward[1])
    assert forward[0] == 2 * 2 * 56**2 * 64 * (49 + 7 + 49)
    assert forward[1] == 4 * 2 * (2 * 64 * 56**2) + 4 * (2 * 8 * 56**2)


def test_milliseconds_are_of_one_call(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def step():
        now[0] += 0.02

    times = CPU.compare({"one": step, "three": Cycle([step] * 3)}, Setting(rounds=1))
    assert all(times[side].median == pytest.approx(20) for side in times)
    assert times["three"].how == "launches"


def test_the_asked_rows_take_the_worst_map_and_the_large_batch():
    lines = [
        {"pass": "forward + backward", "beside": "unfold", "map": "a", "times faster": 30.0, "from": 29.0, "to": 31.0},
        {"pass": "forward + backward", "beside": "unfold", "map": "b", "times faster": 12.0, "from": 11.0, "to": 13.0},
        {"pass": "forward + backward", "beside": "unfold", "map": "c", "note": "failed: no memory"},
        {"pass": "forward", "beside": "unfold", "map": "a", "times faster": 1.0},
    ]
    network = {"pass": "training", "compiled": True, "batch": 256, "network": "full", "ratio": 1.4}
    found = {
        "operator": lines,
        "networks": [{**network, "batch": 64, "ratio": 0.5}, {**network, "memory, ratio": 0.9}],
        "gradients": [{"worst": 2e-6}, {"worst": 5e-5}],
    }
    results = gpu_acceptance.acceptance(found, 256)
    assert [(one.value, one.verdict) for one in results] == [
        (1.4, "MISSED"),
        (None, "not measured"),
        (None, "not measured"),
        (12.0, "must met, goal missed"),
        (0.9, "goal met"),
        (5e-5, "must met, goal missed"),
    ]
    assert gpu_acceptance.table(results)[3]["note"] == "the least of 2 of 3 maps: b"


# When it ends, and how


def test_a_row_that_fails_is_a_line_and_the_next_one_is_measured(capsys):
    def breaks():
        raise RuntimeError("out of memory\nand more")

    record = Record(None, {})
    record.part("some", [Row({"map": "a"}, breaks), gives(ms=1.0)], Limit(100))
    first, second = record.found["some"]
    assert first["note"] == "failed: RuntimeError: out of memory"
    assert second["ms"] == 1.0
    assert second["s"] >= 0
    assert "failed: RuntimeError: out of memory" in capsys.readouterr().out


def test_no_row_begins_after_the_limit():
    now = [0.0]
    limit = Limit(10, used=3, clock=lambda: now[0])
    assert "note" not in lines_of(gives(ms=1.0), limit)[0]
    now[0] = 7.5
    assert lines_of(gives(ms=1.0), limit) == [{"map": "a", "note": "skipped: 10 seconds are over"}]


def test_the_file_says_what_was_skipped(parts, tmp_path):
    parts |= {"kernels": part(gives(ms=1.0))}
    path = tmp_path / "found.json"
    assert gpu.main(["kernels", *QUICK, "--limit", "0", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["kernels"][0]["note"].startswith("skipped")
    assert found["ended early"] == "0 seconds are over"


def test_sigterm_keeps_what_was_measured(parts, tmp_path, capsys):
    def killed():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    parts |= {"kernels": part(gives(ms=1.0), Row({"map": "b"}, killed), gives(ms=2.0))}
    path, before = tmp_path / "found.json", signal.getsignal(signal.SIGTERM)
    assert gpu.main(["kernels", *QUICK, "--json", str(path)]) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    found = json.loads(path.read_text())
    assert found["kernels"][0]["ms"] == 1.0
    assert [line.get("note") for line in found["kernels"]] == [None, "stopped: SIGTERM", "skipped: SIGTERM"]
    assert "## What was asked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "status"),
    [({"worst": 1e-6}, 0), ({"worst": 2e-4}, 1), ({"worst": float("inf")}, 1), ({"note": "failed: no memory"}, 1)],
)
def test_the_exit_status_is_that_of_the_gradients(parts, tmp_path, line, status):
    parts |= {"gradients": part(gives(**line)), "kernels": part(gives(ms=1.0))}
    path = tmp_path / "found.json"
    assert gpu.main([*QUICK, "--json", str(path)]) == status
    found = json.loads(path.read_text())
    assert bool(found["gate"]) == bool(status)
    assert found["kernels"][0]["ms"] == 1.0  # measured all the same


def test_the_gate_says_which_row():
    assert failures([{"map": "a", "padding": "mask", "worst": 1e-3}]) == ["a, mask: 1.0e-03 is more than 1e-04"]
    assert plain({"worst": [float("inf"), 1.0]}) == {"worst": ["inf", 1.0]}


def test_the_gradients_of_this_machine_pass():
    rows = gpu.gradients(Bench(TINY, CPU, CEILINGS, quick=True))
    lines = [*rows[-2].measure(), *rows[-1].measure()]  # a map, and the stem
    assert failures(lines) == []


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["nonsense", *QUICK])
    assert "'nonsense' is no part; there are gradients, kernels, operator, networks, tune" in capsys.readouterr().err
