"""`sasa bench`: rows, ratios, verdicts, text and JSON. Nothing here judges a time."""

import json
import math
import mmap
import random
from dataclasses import replace

import pytest
import torch

from sasa.analysis.pictures import draw_ratios
from sasa.analysis.speed import ROWS, Setting, acceptance, agreement, ceilings, choose, groups, isolated, run, stages
from sasa.analysis.speed.acceptance import FACTOR, LARGEST, Result, Row, judge
from sasa.analysis.speed.ceilings import Ceilings
from sasa.analysis.speed.groups import GROUPS, Measured, NotMeasuredError
from sasa.analysis.speed.report import markdown, stage_table, to_text
from sasa.analysis.speed.stages import Profile, Stage, stage_of, stages_of
from sasa.analysis.speed.timing import LEAST_ROUNDS, ratios, spread, take_turns, torch_threads
from sasa.analysis.speed.workloads import (
    attention_core,
    core_step,
    network,
    operator_steps,
    spatial_convolutions,
    unfold_attention,
)
from sasa.nn import LocalAttention2d

TINY = Setting(batch=2, side=32, layers=(1, 1, 1, 1), rounds=1, seconds=1.0, cases=2)
MEASURED_CEILINGS = Ceilings(2, 100e9, 60e9, 10e9, 20e9)


# Numbers


def test_spread_and_ratios():
    assert ratios([1.0, 2.0], [2.0, 8.0]) == [0.5, 0.25]
    found = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.lower, found.median, found.upper) == (2.0, 3.0, 4.0)
    assert spread([7.0]).lower == spread([7.0]).upper == 7.0


def test_sides_take_turns_and_the_order_moves_on():
    called = []
    steps = {name: lambda name=name: called.append(name) for name in "abc"}
    times = take_turns(steps, rounds=3, seconds=math.inf, warmups=1)
    assert "".join(called) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_patience_ends_a_comparison_after_the_least_rounds():
    assert len(take_turns({"a": lambda: None}, rounds=50, seconds=0)["a"]) == LEAST_ROUNDS


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_floor_is_the_slower_of_arithmetic_and_memory():
    assert MEASURED_CEILINGS.floor(200e9, 1e9) == 2.0
    assert MEASURED_CEILINGS.floor(1e9, 40e9) == 2.0
    assert replace(MEASURED_CEILINGS, flops=None).floor(1e9, 1e9) is None


def test_ceilings_say_what_was_not_measured(monkeypatch):
    monkeypatch.setattr(ceilings, "flops_per_second", lambda threads, seconds: None)
    found = ceilings.measure_ceilings(1, size=2**16)
    assert found.copy > 0
    assert "not measured (the native library is not loaded" in str(found)
    assert "100 GFLOP/s, of one thread 60" in str(MEASURED_CEILINGS)


def test_multiply_adds_are_counted_twice(monkeypatch):
    seen = []

    def multiply_adds(rounds):
        seen.append(torch.get_num_threads())
        return 50.0

    monkeypatch.setattr(ceilings, "_seconds", lambda work: work() and 2.0)
    monkeypatch.setattr(torch.ops.sasa, "cpu_multiply_adds", multiply_adds, raising=False)
    assert ceilings.flops_per_second(2) == 2 * 50.0 / 2.0
    assert set(seen) == {2}


# Rows


def test_the_table_is_the_issue_s():
    assert {row.group for row in ROWS.values()} == set(GROUPS)
    limits = {name: (row.goal, row.must) for name, row in ROWS.items()}
    assert limits["inference/full"] == (0.88, 1.05)
    assert limits["training/full"] == (0.88, 1.15)
    assert (limits["inference/convstem"], limits["training/convstem"]) == ((0.86, 1.00), (0.86, 1.10))
    assert limits["compiled-training/convstem"] == limits["folded/full"] == (0.88, None)
    assert limits["bfloat16/full"] == limits["batch-1/convstem"] == (0.95, None)
    assert limits["cores/cores"] == (0.35, 0.6)
    assert (limits["operator/ours"], limits["operator-training/ours"]) == ((100, 50), (60, 30))
    assert limits["memory/full"] == (1.0, 1.3)
    assert limits["agreement/ours"] == (2e-6, 1e-5)
    assert limits["avx2/full"] == (1.0, None)


def test_rows_are_chosen_by_name_group_and_pattern():
    assert [row.name for row in choose()] == list(ROWS)
    assert [row.name for row in choose(["cores"])] == ["cores/cores"]
    assert [row.name for row in choose(["operator*", "inference/full"])] == [
        "inference/full",
        "operator/ours",
        "operator-training/ours",
    ]
    with pytest.raises(acceptance.UsageError, match=r"--rows 'speed' matches no row of the table; groups: inference,"):
        choose(["inference", "speed"])


@pytest.mark.parametrize(
    ("row", "value", "verdict"),
    [
        (Row("a/b", "t", 0.88, 1.05), 0.88, "goal met"),
        (Row("a/b", "t", 0.88, 1.05), 0.9, "must met, goal missed"),
        (Row("a/b", "t", 0.88, 1.05), 1.06, "MISSED"),
        (Row("a/b", "t", 0.88), 1.06, "goal missed, reported"),
        (Row("a/b", "t", 100, 50, kind=FACTOR), 120.0, "goal met"),
        (Row("a/b", "t", 100, 50, kind=FACTOR), 60.0, "must met, goal missed"),
        (Row("a/b", "t", 100, 50, kind=FACTOR), 9.0, "MISSED"),
        (Row("a/b", "t", 1, 2), math.nan, "MISSED"),
        (Row("a/b", "t", 1, 2), None, "not measured"),
    ],
)
def test_verdicts(row, value, verdict):
    assert Result(row, value=value).verdict == verdict


def test_a_share_a_factor_and_a_largest_value():
    sides = Measured("ms an image", {"ours": [1.0, 2.0, 4.0], "baseline": [2.0, 2.0, 2.0]})
    share = judge(Row("g/ours", "t", 1.0), sides)
    assert (share.value, share.lower, share.upper, share.ours, share.baseline, share.rounds) == (1, 0.75, 1.5, 2, 2, 3)
    assert judge(Row("g/ours", "t", 1.0, kind=FACTOR), sides).value == 1.0
    errors = Measured("relative L2", {"ours": [1e-7, 3e-7, 2e-7]}, "worst: somewhere")
    largest = judge(Row("agreement/ours", "t", 2e-6, 1e-5, "", LARGEST), errors)
    assert (largest.value, largest.ours, largest.baseline) == (3e-7, 2e-7, None)
    assert largest.note == "median of 3 cases 2.0e-07; worst: somewhere"


# A run


def fake_times(setting):
    return Measured("ms an image", {"baseline": [2.0, 2.0], "full": [1.0, 1.5], "convstem": [3.0, 3.0]})


def fails(setting):
    raise NotMeasuredError("torch.compile failed here: no compiler")


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setitem(GROUPS, "inference", fake_times)
    monkeypatch.setitem(GROUPS, "compiled-inference", fails)
    monkeypatch.setattr(acceptance, "measure_ceilings", lambda threads, **sizes: MEASURED_CEILINGS)
    stage = Profile("full", "inference", [Stage("attention cores", 2.0, 1e8, 4e7, 16)])
    monkeypatch.setattr(acceptance, "profiles", lambda setting: [stage])
    said = []
    report = run(choose(["inference", "compiled-inference/full"]), TINY, profile=True, quick=True, say=said.append)
    assert said == ["ceilings of the machine", "inference", "compiled-inference", "profile by stage"]
    return report


def test_json_of_a_report(report):
    values = json.loads(json.dumps(report.to_dict()))
    assert set(values) == set("format date quick setting machine ceilings rows measured profiles".split())
    assert (values["format"], values["quick"], values["setting"]["layers"]) == (1, True, [1, 1, 1, 1])
    assert {"cpu", "cores", "vectors", "torch", "backends", "load_before"} <= set(values["machine"])
    assert values["ceilings"] == {"threads": 2, "flops": 1e11, "flops_one_thread": 6e10, "copy": 1e10, "triad": 2e10}
    full, convstem, compiled = values["rows"]
    assert full == {
        "name": "inference/full", "title": "full attention / resnet50, inference", "goal": 0.88, "must": 1.05,
        "baseline": 2.0, "kind": "share", "unit": "ms an image", "value": 0.625, "lower": 0.5625, "upper": 0.6875,
        "ours": 1.25, "rounds": 2, "note": "", "verdict": "goal met",
    }  # fmt: skip
    assert (convstem["value"], convstem["verdict"]) == (1.5, "MISSED")
    assert (compiled["value"], compiled["verdict"]) == (None, "not measured")
    assert values["measured"]["inference"]["values"]["full"] == [1.0, 1.5]
    assert values["profiles"][0]["stages"][0]["name"] == "attention cores"


def test_text_of_a_report(report):
    text = to_text(report)
    assert "QUICK: small networks" in text
    assert "| full attention / resnet50, inference " in text
    assert " 1.25 ms |  2.00 ms | 0.625 | 0.562 to 0.688 | 0.880 |  1.050 |" in text
    assert "- compiled-inference: torch.compile failed here: no compiler" in text
    assert "attention cores" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(line) for line in lines[:5]}) == 1, "columns of one width"


def test_a_stage_stands_beside_its_floor():
    table = stage_table(Profile("full", "inference", [Stage("cores", 2.0, 1e8, 4e7, 16)]), MEASURED_CEILINGS)
    assert [cell.strip() for cell in table.splitlines()[4].split("|")[1:-1]] == [
        "cores", "2.00", "100%", "0.10", "50", "40.0", "20.0", "2.00",
    ]  # fmt: skip


def test_a_picture_of_a_report(report, tmp_path):
    draw_ratios(report.to_dict()["rows"], tmp_path / "new" / "ratios.png", "title")
    assert (tmp_path / "new" / "ratios.png").read_bytes().startswith(b"\x89PNG")
    draw_ratios([], tmp_path / "none.png", "nothing measured")


def test_markdown():
    lines = markdown([["name", "ms"], ["a", "1.5"], ["longer", "12.25"]]).splitlines()
    assert lines == ["| name   |    ms |", "| ------ | ----: |", "| a      |   1.5 |", "| longer | 12.25 |"]


def test_settings():
    assert Setting.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    assert Setting.make(rounds=3, threads=2) == Setting(rounds=3, threads=2)
    assert Setting.make(quick=True).side < Setting.make().side
    with pytest.raises(ValueError, match="rounds must be at least 1, got -1"):
        Setting(rounds=-1)


def test_without_torchvision_a_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models.resnet", None)
    with pytest.raises(groups.SasaError, match=r"the baseline is torchvision's ResNet-50: pip install 'sasa\[train\]'"):
        network("baseline", TINY)


# What is run


def test_networks_are_the_papers():
    with torch.device("meta"):
        networks = {side: network(side, Setting()) for side in groups.SIDES}
    parameters = {side: sum(p.numel() for p in model.parameters()) / 1e6 for side, model in networks.items()}
    assert {side: round(count, 2) for side, count in parameters.items()} == {
        "baseline": 25.56,
        "full": 18.03,
        "convstem": 18.04,
    }


@pytest.mark.parametrize(
    "name", ["inference", "training", "folded", "batch-1", "bfloat16", "cores", "operator-training"]
)
def test_comparisons_run(name):
    measured = GROUPS[name](TINY)
    for row in choose([name]):
        assert judge(row, measured).value > 0


def test_there_are_16_convolutions():
    shapes = [(conv.stride[0], *shape) for conv, shape in spatial_convolutions(Setting())]
    assert len(shapes) == 16
    assert shapes[0] == (1, 8, 64, 56, 56)
    assert shapes[3] == (2, 8, 128, 56, 56)
    assert shapes[-1] == (1, 8, 512, 7, 7)


def test_a_core_is_the_layer_without_its_projection():
    torch.manual_seed(0)
    layer = LocalAttention2d(16, 16, 3, 2, num_heads=8)
    core = attention_core(16, 2, 3)
    core.load_state_dict({name: value for name, value in layer.state_dict().items() if "qkv" not in name})
    x = torch.randn(1, 16, 5, 6)
    torch.testing.assert_close(core(layer.qkv(x)), layer(x))
    core_step(spatial_convolutions(TINY))()


def test_the_unfolded_baseline_is_equation_3():
    tensors = [torch.randn(1, 16, 5, 6, dtype=torch.float64) for _ in range(3)]
    rels = [torch.randn(8, 3, 1, dtype=torch.float64) for _ in range(2)]
    want = agreement.local_attention(*tensors, *rels, kernel_size=3, num_heads=8, backend="reference")
    torch.testing.assert_close(unfold_attention(*tensors, *rels), want)


def test_what_does_not_agree_is_not_timed(monkeypatch):
    monkeypatch.setattr("sasa.analysis.speed.workloads.unfold_attention", lambda *tensors: 2 * tensors[2])
    with pytest.raises(groups.SasaError, match="our operator and the unfolded one differ by"):
        operator_steps(1, 16, 4, backward=False)


def test_agreement_of_random_cases():
    choose_shapes = random.Random(0)
    cases = [agreement.random_case(choose_shapes) for _ in range(300)]
    assert {case.padding for case in cases} == {"zeros", "mask"}
    assert {case.terms for case in cases} == {"both", "content", "relative"}
    assert {case.window for case in cases} == {1, 3, 5, 7, 9, 11}
    assert any(case.height < case.window for case in cases)
    errors, worst = agreement.errors_of(6)
    assert len(errors) == 6
    assert max(errors) < 1e-5
    assert worst.startswith(f"worst {max(errors):.1e}: ")


def test_a_nan_is_the_largest_error():
    nan = torch.full((2,), math.nan)
    assert agreement._relative_error(nan, torch.ones(2).double(), 1.0) == math.inf


# Processes of their own


def test_peak_growth_sees_what_is_freed_again():
    def step():  # memory of its own: an allocator may have some to spare from earlier tests
        with mmap.mmap(-1, 2**26) as memory:
            memory.write(b"1" * 2**26)

    assert isolated.peak_growth(step) > 2**25


def test_a_process_that_fails_is_one_sentence():
    with pytest.raises(groups.SasaError, match="measuring training_memory in a process of its own failed: "):
        isolated.in_a_process("training_memory", TINY, side="nothing")


def test_avx2_needs_x86(monkeypatch):
    monkeypatch.setattr(isolated.platform, "machine", lambda: "aarch64")
    with pytest.raises(NotMeasuredError, match="AVX2 is an instruction set of x86"):
        groups.avx2(TINY)


# Stages


@pytest.mark.parametrize(
    ("name", "args", "stage"),
    [
        ("aten::convolution", (None, torch.empty(64, 3, 7, 7)), "stem convolution"),
        ("aten::convolution", (None, torch.empty(64, 64, 3, 3)), "spatial convolutions"),
        ("aten::convolution_backward", (None, None, torch.empty(192, 64, 1, 1)), "q, k, v projections"),
        ("aten::convolution", (None, torch.empty(256, 64, 1, 1)), "other 1 x 1 convolutions"),
        ("sasa::local_attention_backward", (), "attention cores"),
        ("sasa::qkv_attention_inference", (), "attention cores"),
        ("sasa::block_attention", (), "stem attention"),
        ("sasa::cpu_something", (), "other sasa operations"),
        ("aten::native_batch_norm_backward", (), "batch norm"),
        ("aten::addmm", (), "classifier and loss"),
        ("aten::add_", (), "ReLU and sums"),
        ("aten::max_pool2d_with_indices", (), "pooling"),
        ("aten::view", (), "rest"),
    ],
)
def test_stage_of_an_operation(name, args, stage):
    assert stage_of(name, args) == stage


def test_stages_of_a_network():
    found = {(p.side, p.passed): {s.name: s for s in p.stages} for p in stages.profiles(TINY, ["full"])}
    forward, training = found["full", "inference"], found["full", "training step"]
    assert {"attention cores", "stem attention", "q, k, v projections", "batch norm"} <= set(forward)
    assert {"attention cores", "classifier and loss", "ReLU and sums"} <= set(training)
    assert forward["attention cores"].calls == 4
    assert training["attention cores"].calls == 8
    assert training["q, k, v projections"].flops == pytest.approx(3 * forward["q, k, v projections"].flops)
    assert forward["q, k, v projections"].flops == pytest.approx(
        2 * 3 * (8 * 8 * 64**2 + 8 * 8 * 128**2 + 4 * 4 * 256**2 + 2 * 2 * 512**2)
    )


def test_stages_are_of_one_image():
    x = torch.ones(4, 3, 8, 8)
    (stage,) = stages_of(lambda: x.relu(), images=4, rounds=1)
    assert (stage.name, stage.calls) == ("ReLU and sums", 1)
    assert stage.moved == 2 * x[0].numel() * 4
