"""`sasa bench`: rows, ratios, verdicts, text and JSON. Nothing here judges a time."""

import gc
import json
import math
import mmap
import random
import signal
from dataclasses import replace

import pytest
import torch
from sasa.speed.acceptance import FAILED, STOPPED, Result, judge
from sasa.speed.ceilings import Ceilings
from sasa.speed.comparison import Group, Measured, NotMeasuredError
from sasa.speed.measuring import run
from sasa.speed.report import GrowingTable, markdown, stage_table, table, to_text
from sasa.speed.rows import FACTOR, LARGEST, Row
from sasa.speed.stages import Profile, Stage, stage_of, stages_of
from sasa.speed.workloads import (
    attention_core,
    core_step,
    network,
    operator_steps,
    spatial_convolutions,
    unfold_attention,
)

from sasa.draw.charts import draw_ratios
from sasa.errors import SasaError, UsageError
from sasa.nn import LocalAttention2d
from sasa.speed import GROUPS, ROWS, Setting, agreement, ceilings, choose, groups, isolated, measuring, stages
from sasa.speed import demo as demo_speed
from sasa.speed import instruction_sets as sets
from sasa.speed.stop import Stop
from sasa.speed.timing import LEAST_ROUNDS, ratios, spread, take_turns, torch_threads

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


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def step(self, seconds):
        def take():
            self.now += seconds

        return take


@pytest.mark.parametrize(
    ("seconds_of_a_call", "warmups", "rounds"),
    [
        (0.1, 2, 15),  # a fast machine: all of them
        (1.0, 2, 9),  # 4 seconds of warm-up, then rounds of 2 until more than 20 are over
        (3.0, 1, LEAST_ROUNDS),  # the second warm-up and the fourth round do not begin
        (60.0, 1, LEAST_ROUNDS),
    ],
)
def test_slower_machines_take_fewer_rounds(seconds_of_a_call, warmups, rounds):
    clock, called = Clock(), []
    ours = clock.step(seconds_of_a_call)
    steps = {"ours": lambda: (called.append(1), ours()), "baseline": clock.step(seconds_of_a_call)}
    times = take_turns(steps, rounds=15, seconds=20, warmups=2, clock=clock)
    assert {name: len(values) for name, values in times.items()} == {"ours": rounds, "baseline": rounds}
    assert len(called) == warmups + rounds
    assert times["ours"] == pytest.approx([seconds_of_a_call] * rounds)


def test_no_garbage_is_collected_in_a_turn():
    seen = []
    take_turns({"a": lambda: seen.append(gc.isenabled())}, rounds=1, seconds=60, warmups=0)
    assert seen == [False]
    assert gc.isenabled()


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
    assert {row.group for row in ROWS.values()} == {*GROUPS, *demo_speed.DEMO_GROUPS}
    limits = {name: (row.goal, row.must) for name, row in ROWS.items()}
    for held in ("", "avx2-"):
        assert limits[f"{held}inference/full"] == (0.85, 0.92)
        assert limits[f"{held}training/full"] == (0.92, 1.00)
        assert limits[f"{held}demo-inference/demo"] == limits[f"{held}demo-training/demo"] == (0.9, 1.05)
    assert (limits["inference/convstem"], limits["training/convstem"]) == ((0.86, 1.00), (0.86, 1.10))
    assert limits["compiled-training/convstem"] == limits["folded/full"] == (0.88, None)
    assert limits["bfloat16/full"] == limits["batch-1/convstem"] == (0.95, None)
    assert limits["cores/cores"] == (0.35, 0.6)
    assert (limits["operator/ours"], limits["operator-training/ours"]) == ((100, 50), (60, 30))
    assert limits["memory/full"] == (1.0, 1.3)
    assert limits["agreement/ours"] == (2e-6, 1e-5)


def test_what_matters_comes_first_and_what_compiles_last():
    names = [row.group for row in ROWS.values()]
    assert names[:8] == [*["inference"] * 2, *["training"] * 2, *["avx2-inference"] * 2, *["avx2-training"] * 2]
    assert names[-4:] == [*["compiled-inference"] * 2, *["compiled-training"] * 2]


def test_rows_are_chosen_by_name_group_and_pattern():
    assert [row.name for row in choose()] == list(ROWS)
    assert [row.name for row in choose(["cores"])] == ["cores/cores"]
    assert [row.name for row in choose(["operator*", "inference/full"])] == [
        "inference/full",
        "operator/ours",
        "operator-training/ours",
    ]
    with pytest.raises(UsageError, match=r"--rows 'speed' matches no row of the table; groups: inference,"):
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
    ],
)
def test_verdicts(row, value, verdict):
    assert Result(row, value=value).verdict == verdict


def test_verdict_without_a_value():
    assert Result(Row("a/b", "t", 1, 2)).verdict == "not measured"
    assert Result(Row("a/b", "t", 1, 2), missing=STOPPED).verdict == "not measured: stopped"


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


def cannot(setting):
    raise NotMeasuredError("torch.compile failed here: no compiler")


def fails(setting):
    raise RuntimeError("not enough memory\nand more")


def sends(number):
    """A comparison in whose middle a signal comes."""

    def compare(setting):
        signal.raise_signal(number)
        raise AssertionError("nothing is measured after the signal")

    return compare


@pytest.fixture(autouse=True)
def _quick_ceilings(monkeypatch):
    monkeypatch.setattr(measuring, "measure_ceilings", lambda threads, **sizes: MEASURED_CEILINGS)


def measure(comparisons, **words):
    """The report of groups that are put here, and the names of the rows that were kept at each call."""
    kept = []
    report = run(
        choose(list(comparisons)),
        TINY,
        {name: Group(compare) for name, compare in comparisons.items()},
        keep=lambda report, results: kept.append([result.row.name for result in results]),
        **words,
    )
    return report, kept


@pytest.fixture
def report(monkeypatch):
    stage = Profile("full", "inference", [Stage("attention cores", 2.0, 1e8, 4e7, 16)])
    monkeypatch.setattr(measuring, "profiles", lambda setting: [stage])
    said = []
    report = run(
        choose(["inference", "compiled-inference/full"]),
        TINY,
        {"inference": Group(fake_times), "compiled-inference": Group(cannot)},
        profile=True,
        quick=True,
        say=said.append,
    )
    assert said[:2] == ["ceilings of the machine", "3 comparisons, at most about 95 s"]
    assert [line.partition(" (")[0] for line in said[2:]] == ["inference", "profile by stage", "compiled-inference"]
    return report


def test_results_are_kept_as_they_come():
    report, kept = measure({"inference": fake_times, "training": fake_times})
    rows = [["inference/full", "inference/convstem"], ["training/full", "training/convstem"]]
    assert kept == [[], [], *rows, []]  # at the start, with the ceilings, group by group, at the end
    assert report.stopped is None
    assert set(report.seconds) == {"inference", "training"}


def test_a_report_says_at_any_time_that_the_rest_was_not_measured():
    texts = []
    run(
        choose(["inference", "training"]),
        TINY,
        {"inference": Group(fake_times), "training": Group(fake_times)},
        keep=lambda report, results: texts.append(to_text(report)),
    )
    assert [text.count("not measured: stopped") for text in texts] == [4, 4, 2, 0, 0]
    assert ["The run was stopped: it was killed." in text for text in texts] == [True, True, True, True, False]


def test_a_group_that_fails_leaves_the_others():
    report, _ = measure({"inference": fails, "training": fake_times})
    found = {result.row.name: result for result in report.table}
    assert found["inference/full"].verdict == f"not measured: {FAILED}"
    assert found["training/full"].value == 0.625
    assert report.failures == {"inference": "RuntimeError: not enough memory"}
    assert to_text(report).count("- inference: RuntimeError: not enough memory") == 1
    assert "The run was stopped" not in to_text(report)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_ends_the_run_and_keeps_what_there_is(number, reason):
    before = signal.getsignal(number)
    with Stop() as stop:
        report, kept = measure({"inference": fake_times, "training": sends(number), "cores": fails}, stop=stop)
    assert signal.getsignal(number) is before
    assert (stop.signal_number, report.stopped) == (number, reason)
    assert [result.verdict for result in report.table][1:] == ["MISSED", *["not measured: stopped"] * 3]
    assert kept[-1] == ["training/full", "training/convstem", "cores/cores"]
    assert report.failures == {}


def test_a_signal_between_two_groups_ends_the_run_too():
    with Stop() as stop:
        groups = {name: Group(fake_times) for name in ("inference", "training")}
        raises = lambda report, results: results and stop.reason is None and signal.raise_signal(signal.SIGTERM)  # noqa: E731
        report = run(choose(list(groups)), TINY, groups, stop=stop, keep=raises)
    assert set(report.measured) == {"inference"}
    assert report.stopped == "SIGTERM"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
def test_the_end_of_the_budget_is_no_signal():
    with Stop(seconds=1000) as stop:
        remaining = signal.getitimer(signal.ITIMER_REAL)[0]
        report, _ = measure({"inference": fake_times, "training": sends(signal.SIGALRM)}, stop=stop)
    assert 0 < remaining <= 1000
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert stop.signal_number is None
    assert report.stopped == "the 1000 seconds of --budget are over"
    assert set(report.measured) == {"inference"}


def test_patience_is_a_share_of_the_setting_s_seconds():
    seen = []
    group = Group(lambda setting: seen.append(setting.seconds) or fake_times(setting), patience=0.5, overhead=4)
    run(choose(["inference"]), replace(TINY, seconds=8.0), {"inference": group})
    assert seen == [4.0]
    assert group.about(replace(TINY, seconds=8.0), slowness=3.0) == 16


def test_json_of_a_report(report):
    values = json.loads(json.dumps(report.to_dict()))
    assert set(values) == set(
        "format date quick setting machine ceilings stopped rows measured seconds profiles failures".split()
    )
    assert (values["format"], values["quick"], values["setting"]["layers"]) == (2, True, [1, 1, 1, 1])
    assert {"cpu", "cores", "vectors", "torch", "backends", "load_before"} <= set(values["machine"])
    assert values["ceilings"] == {"threads": 2, "flops": 1e11, "flops_one_thread": 6e10, "copy": 1e10, "triad": 2e10}
    full, convstem, compiled = values["rows"]
    assert full == {
        "name": "inference/full", "title": "full attention / resnet50, inference", "goal": 0.85, "must": 0.92,
        "baseline": 2.0, "kind": "share", "unit": "ms an image", "value": 0.625, "lower": 0.5625, "upper": 0.6875,
        "ours": 1.25, "rounds": 2, "note": "", "missing": "",
        "verdict": "goal met",
    }  # fmt: skip
    assert (convstem["value"], convstem["verdict"]) == (1.5, "MISSED")
    assert (compiled["value"], compiled["verdict"]) == (None, "not measured: not possible here")
    assert values["measured"]["inference"]["values"]["full"] == [1.0, 1.5]
    assert values["profiles"][0]["stages"][0]["name"] == "attention cores"


def test_text_of_a_report(report):
    text = to_text(report)
    assert "QUICK: small networks" in text
    assert "| full attention / resnet50, inference " in text
    assert " 1.25 ms |  2.00 ms | 0.625 | 0.562 to 0.688 |      2 | 0.850 |  0.920 |" in text
    assert "- compiled-inference: torch.compile failed here: no compiler" in text
    assert "attention cores" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(line) for line in lines[:5]}) == 1, "columns of one width"


def test_a_table_that_grows_has_columns_of_one_width(report):
    growing = GrowingTable(report.rows)
    lines = [*growing.head().splitlines(), *map(growing.line, report.table)]
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    whole = [[cell.strip() for cell in line.split("|")] for line in table(report.table).splitlines()]
    assert [cells[0], *cells[2:]] == [whole[0], *whole[2:]]


def test_a_stage_stands_beside_its_floor():
    table = stage_table(Profile("full", "inference", [Stage("cores", 2.0, 1e8, 4e7, 16)]), MEASURED_CEILINGS)
    assert [cell.strip() for cell in table.splitlines()[4].split("|")[1:-1]] == [
        "cores", "2.00", "100%", "0.10", "50", "40.0", "20.0", "2.00",
    ]  # fmt: skip


def test_a_image_of_a_report(report, tmp_path):
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
    with pytest.raises(SasaError, match=r"the baseline is torchvision's ResNet-50: pip install 'sasa\[train\]'"):
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
    try:
        measured = GROUPS[name].compare(TINY)
    except NotMeasuredError as reason:  # bfloat16 is not for every CPU
        pytest.skip(str(reason))
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
    monkeypatch.setattr("sasa.speed.workloads.unfold_attention", lambda *tensors: 2 * tensors[2])
    with pytest.raises(SasaError, match="our operator and the unfolded one differ by"):
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
    with pytest.raises(SasaError, match="measuring training_memory in a process of its own failed: "):
        isolated.in_a_process(isolated.training_memory, TINY, side="nothing")


# AVX2


def test_avx2_needs_x86(monkeypatch):
    monkeypatch.setattr(sets.platform, "machine", lambda: "aarch64")
    with pytest.raises(NotMeasuredError, match="AVX2 is an instruction set of x86"):
        sets.held_at_avx2(groups.inference)(TINY)


@pytest.mark.skipif(sets.why_no_avx2() is not None, reason=sets.why_no_avx2() or "")
@pytest.mark.parametrize("compare", [groups.training, demo_speed.inference])
def test_a_comparison_held_at_avx2(compare):
    measured = sets.held_at_avx2(compare)(TINY)
    assert set(measured.values) == set(compare(TINY).values)
    assert "ATen with AVX2, our kernels with " in measured.note
    assert "avx512" not in measured.note


def test_what_cannot_be_held_is_not_measured(monkeypatch):
    monkeypatch.setattr(sets, "why_no_avx2", lambda: None)
    monkeypatch.setattr(sets, "in_a_process", lambda *words: isolated.Answer({}, "AVX512", "avx512"))
    with pytest.raises(NotMeasuredError, match="torch was to be held at AVX2, and uses AVX512"):
        sets.held_at_avx2(groups.inference)(TINY)


@pytest.mark.parametrize("chosen", [["inference", "avx2-inference"], ["avx2-inference"]])
def test_where_avx2_is_all_nothing_is_measured_twice(monkeypatch, chosen):
    monkeypatch.setattr(measuring, "avx2_is_all", lambda: True)
    calls = []
    compare = lambda setting: calls.append(1) or fake_times(setting)  # noqa: E731
    report = run(choose(chosen), TINY, {"inference": Group(compare), "avx2-inference": Group(fails)})
    assert len(calls) == 1
    last = report.table[-1]
    assert (last.row.name, last.value) == ("avx2-inference/convstem", 1.5)
    assert last.note == "this machine has AVX2 and nothing wider: these are the numbers of inference"


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
