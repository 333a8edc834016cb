"""The acceptance table: rows, verdicts, runs, reports. No test depends on a measured time."""

import json
import math
import signal
from dataclasses import replace

import pytest

from benchmarks.cpu import run as runs
from benchmarks.cpu.ceilings import Ceilings
from benchmarks.cpu.comparisons import COMPARISONS, Comparison
from benchmarks.cpu.fresh_process import NotPossibleError
from benchmarks.cpu.report import draw, profile_table, to_text
from benchmarks.cpu.results import FAILED, STOPPED, Measured, RowResult, judge
from benchmarks.cpu.rows import FACTOR, LARGEST, ROWS, AcceptanceRow, choose
from benchmarks.cpu.setting import Setting
from benchmarks.cpu.stages import Profile, Stage
from sasa.errors import UsageError
from sasa.speed import Stop

TINY = Setting(batch=2, side=32, layers=(1, 1, 1, 1), rounds=1, seconds=1.0, cases=2)
CEILINGS = Ceilings(2, 100e9, 60e9, 10e9, 20e9)


def test_goals_and_limits():
    assert {row.comparison for row in ROWS.values()} == set(COMPARISONS)
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


def test_the_most_important_rows_come_first_and_those_that_compile_last():
    names = [row.comparison for row in ROWS.values()]
    assert names[:8] == [*["inference"] * 2, *["training"] * 2, *["avx2-inference"] * 2, *["avx2-training"] * 2]
    assert names[-4:] == [*["compiled-inference"] * 2, *["compiled-training"] * 2]


def test_rows_are_chosen_by_name_comparison_and_pattern():
    assert [row.name for row in choose()] == list(ROWS)
    assert [row.name for row in choose(["cores"])] == ["cores/cores"]
    assert [row.name for row in choose(["operator*", "inference/full"])] == [
        "inference/full",
        "operator/ours",
        "operator-training/ours",
    ]
    with pytest.raises(UsageError, match=r"'speed' matches no row of the table; comparisons: inference,"):
        choose(["inference", "speed"])


@pytest.mark.parametrize(
    ("row", "value", "verdict"),
    [
        (AcceptanceRow("a/b", "t", 0.88, 1.05), 0.88, "goal met"),
        (AcceptanceRow("a/b", "t", 0.88, 1.05), 0.9, "must met, goal missed"),
        (AcceptanceRow("a/b", "t", 0.88, 1.05), 1.06, "MISSED"),
        (AcceptanceRow("a/b", "t", 0.88), 1.06, "goal missed, reported"),
        (AcceptanceRow("a/b", "t", 100, 50, kind=FACTOR), 120.0, "goal met"),
        (AcceptanceRow("a/b", "t", 100, 50, kind=FACTOR), 60.0, "must met, goal missed"),
        (AcceptanceRow("a/b", "t", 100, 50, kind=FACTOR), 9.0, "MISSED"),
        (AcceptanceRow("a/b", "t", 1, 2), math.nan, "MISSED"),
    ],
)
def test_verdicts(row, value, verdict):
    assert RowResult(row, value=value).verdict == verdict


def test_verdict_without_a_value():
    assert RowResult(AcceptanceRow("a/b", "t", 1, 2), missing=STOPPED).verdict == "not measured: stopped"


def test_a_share_a_factor_and_a_largest_value():
    sides = Measured("ms an image", {"ours": [1.0, 2.0, 4.0], "baseline": [2.0, 2.0, 2.0]})
    share = judge(AcceptanceRow("g/ours", "t", 1.0), sides)
    assert (share.value, share.lower, share.upper, share.ours, share.baseline, share.rounds) == (1, 0.75, 1.5, 2, 2, 3)
    assert judge(AcceptanceRow("g/ours", "t", 1.0, kind=FACTOR), sides).value == 1.0
    errors = Measured("relative L2", {"ours": [1e-7, 3e-7, 2e-7]}, "worst: somewhere")
    largest = judge(AcceptanceRow("agreement/ours", "t", 2e-6, 1e-5, "", LARGEST), errors)
    assert (largest.value, largest.ours, largest.baseline) == (3e-7, 2e-7, None)
    assert largest.note == "median of 3 cases 2.0e-07; worst: somewhere"


# A run


def fake_times(setting):
    return Measured("ms an image", {"baseline": [2.0, 2.0], "full": [1.0, 1.5], "convstem": [3.0, 3.0]})


def not_possible(setting):
    raise NotPossibleError("torch.compile failed here: no compiler")


def fails(setting):
    raise RuntimeError("not enough memory\nand more")


def sends_sigterm(setting):
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("nothing is measured after the signal")


@pytest.fixture(autouse=True)
def _quick_ceilings(monkeypatch):
    monkeypatch.setattr(runs, "measure_ceilings", lambda threads, **sizes: CEILINGS)


def measure(measures, **options):
    """Return the report of the given comparisons, and the names of the rows that were kept at each call."""
    kept = []
    run = runs.TableRun(
        runs.new_report(choose(list(measures)), TINY),
        {name: Comparison(measure) for name, measure in measures.items()},
        keep=lambda report, results: kept.append([result.row.name for result in results]),
        **options,
    )
    return run.measure(), kept


@pytest.fixture
def report(monkeypatch):
    profile = Profile("full", "inference", [Stage("attention cores", 2.0, 1e8, 4e7, 16)])
    monkeypatch.setattr(runs, "profiles", lambda setting: [profile])
    said = []
    comparisons = {"inference": Comparison(fake_times), "compiled-inference": Comparison(not_possible)}
    report = runs.new_report(choose(["inference", "compiled-inference/full"]), TINY, quick=True)
    runs.TableRun(report, comparisons, say=said.append).measure(profile=True)
    names = ["ceilings of the machine", "inference", "profile by stage", "compiled-inference"]
    assert said == [f"{name} ({place} of 4)" for place, name in enumerate(names, 1)]
    return report


def test_results_are_kept_as_they_come():
    report, kept = measure({"inference": fake_times, "training": fake_times})
    rows = [["inference/full", "inference/convstem"], ["training/full", "training/convstem"]]
    assert kept == [[], [], *rows, []]  # at the start, with the ceilings, by comparison, at the end
    assert report.stopped is None
    assert set(report.seconds) == {"inference", "training"}


def test_a_report_says_at_any_time_that_the_rest_was_not_measured():
    texts = []
    comparisons = {"inference": Comparison(fake_times), "training": Comparison(fake_times)}
    report = runs.new_report(choose(list(comparisons)), TINY)
    runs.TableRun(report, comparisons, keep=lambda report, results: texts.append(to_text(report))).measure()
    assert [text.count("not measured: stopped") for text in texts] == [4, 4, 2, 0, 0]
    assert ["The run was stopped: it was killed." in text for text in texts] == [True, True, True, True, False]


def test_a_comparison_that_fails_leaves_the_others():
    report, _ = measure({"inference": fails, "training": fake_times})
    found = {result.row.name: result for result in report.table}
    assert found["inference/full"].verdict == f"not measured: {FAILED}"
    assert found["training/full"].value == 0.625
    assert report.failures == {"inference": "RuntimeError: not enough memory"}
    assert to_text(report).count("- inference: RuntimeError: not enough memory") == 1
    assert "The run was stopped" not in to_text(report)


def test_a_stop_ends_the_run_and_keeps_the_results():
    with Stop() as stop:
        report, kept = measure({"inference": fake_times, "training": sends_sigterm, "cores": fails}, stop=stop)
    assert report.stopped == "SIGTERM"
    assert [result.verdict for result in report.table][1:] == ["MISSED", *["not measured: stopped"] * 3]
    assert kept[-1] == ["training/full", "training/convstem", "cores/cores"]
    assert report.failures == {}


def test_a_comparison_gets_its_share_of_the_time():
    seen = []
    comparison = Comparison(lambda setting: seen.append(setting.seconds) or fake_times(setting), share=0.5)
    report = runs.new_report(choose(["inference"]), replace(TINY, seconds=8.0))
    runs.TableRun(report, {"inference": comparison}).measure()
    assert seen == [4.0]


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


def test_a_profile_has_the_floor_of_each_stage():
    table = profile_table(Profile("full", "inference", [Stage("cores", 2.0, 1e8, 4e7, 16)]), CEILINGS)
    assert [cell.strip() for cell in table.splitlines()[4].split("|")[1:-1]] == [
        "cores", "2.00", "100%", "0.10", "50", "40.0", "20.0", "2.00",
    ]  # fmt: skip


def test_the_chart_of_a_report(report, tmp_path):
    draw(report.table, "title", tmp_path / "new" / "ratios.png")
    assert (tmp_path / "new" / "ratios.png").read_bytes().startswith(b"\x89PNG")
    draw([], "nothing measured", tmp_path / "none.png")


def test_settings():
    assert Setting.make(rounds=3, threads=2) == Setting(rounds=3, threads=2)
    assert Setting.make(quick=True).side < Setting.make().side
    with pytest.raises(ValueError, match="rounds must be at least 1, got -1"):
        Setting(rounds=-1)
