"""`sasa bench` and the acceptance table, stopped while they measure: the exit status, and the report that is left.

No test waits for a time: the process prints a line when it measures, and then measures until it is stopped.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MEASURING = "measuring endlessly"
PATIENCE = 300  # seconds after which a hanging process is a failure

# The acceptance table, with a quick comparison, and one that does not end.
TABLE = f"""
import sys, time
from benchmarks.cpu.__main__ import COMPARISONS, main
from benchmarks.cpu.comparisons import Comparison
from benchmarks.cpu.results import Measured

def quick(setting):
    return Measured("ms an image", {{"baseline": [2.0, 2.0], "full": [1.0, 1.5], "convstem": [3.0, 3.0]}})

def endless(setting):
    print({MEASURING!r}, file=sys.stderr, flush=True)
    time.sleep({2 * PATIENCE})

COMPARISONS |= {{"inference": Comparison(quick), "training": Comparison(endless)}}
sys.exit(main())
"""

# sasa bench: training steps are timed, inference does not end.
TWIN = f"""
import sys, time
from sasa.speed import pair

measured = pair.Pair.time

def time_until_inference(self, passed, rounds, seconds):
    if passed == pair.TRAINING:
        return measured(self, passed, rounds, seconds)
    print({MEASURING!r}, file=sys.stderr, flush=True)
    time.sleep({2 * PATIENCE})

pair.Pair.time = time_until_inference
from sasa.cli.main import main
main()
"""


def stopped(program, number, *arguments):
    """Send a signal to a program while it measures; return its status, stdout and stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.strip() == MEASURING:
                process.send_signal(number)
                break
        try:
            out, rest = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, out, "".join(said) + rest


def verdicts(path):
    return {row["name"]: row["verdict"] for row in json.loads(path.read_text())["rows"]}


WORDS = ["inference", "training", "--quick", "--output"]
REPORT = {
    "inference/full": "goal met",
    "inference/convstem": "MISSED",
    "training/full": "not measured: stopped",
    "training/convstem": "not measured: stopped",
}


@pytest.mark.parametrize(
    ("number", "status", "reason"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_stopped_table_leaves_a_report(tmp_path, number, status, reason):
    got, out, error = stopped(TABLE, number, *WORDS, tmp_path / "report")
    assert got == status, error
    assert verdicts(tmp_path / "report.json") == REPORT
    assert json.loads((tmp_path / "report.json").read_text())["stopped"] == reason
    for text in (out, (tmp_path / "report.md").read_text()):
        lines = [line for line in text.splitlines() if line.startswith(("| full", "| conv"))]
        assert [line.split("|")[-2].strip() for line in lines] == list(REPORT.values())
        assert f"The run was stopped: {reason}." in text
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_killed_table_leaves_complete_files(tmp_path):
    got, out, _ = stopped(TABLE, signal.SIGKILL, *WORDS, tmp_path / "report")
    assert got == -signal.SIGKILL
    assert verdicts(tmp_path / "report.json") == REPORT
    text = (tmp_path / "report.md").read_text()
    assert text.count("not measured: stopped") == 2
    assert "The run was stopped: it was killed." in text
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "full attention / resnet50, inference, ours 1.25 ms" in out  # printed as soon as it was measured
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md", "report.png"]


def test_sasa_bench_stopped_while_a_run_is_timed(tmp_path, run_directory):
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run_directory.iterdir():
        if path.is_file() and path.name != "speed.json":
            (copy / path.name).write_bytes(path.read_bytes())
    got, out, error = stopped(TWIN, signal.SIGTERM, "bench", "--model", copy, "--rounds", 3)
    assert got == 143, error
    said = f"sasa: stopped by SIGTERM: 1 of 2 passes were measured; saved in {copy / 'speed.json'}"
    assert error.splitlines()[-1] == said
    passes = json.loads((copy / "speed.json").read_text())["passes"]
    assert passes["training step"]["rounds"] == 3
    assert passes["inference"] == {"not measured": "stopped"}
    assert [line.split("|")[-2].strip() for line in out.splitlines()[4:6]] == ["3", "not measured: stopped"]
