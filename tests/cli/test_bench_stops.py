"""`sasa bench` stopped in the middle: a report of what there is, and the status of the command.

No test waits for a time: the process says when it measures, and then measures until it is stopped.
"""

import json
import signal
import subprocess
import sys

import pytest

MEASURING = "now it measures"
PATIENCE = 300  # seconds until a process that hangs is a failure

# The command, with a first group that is quick and a second one that does not end.
TABLE = f"""
import sys, time
from sasa import speed
from sasa.speed.comparison import Group, Measured

def quick(setting):
    return Measured("ms an image", {{"baseline": [2.0, 2.0], "full": [1.0, 1.5], "convstem": [3.0, 3.0]}})

def endless(setting):
    print({MEASURING!r}, file=sys.stderr, flush=True)
    time.sleep({2 * PATIENCE})

speed.GROUPS |= {{"inference": Group(quick), "training": Group(endless)}}
from sasa.cli.main import main
main()
"""

# The command on a run: training steps are timed, inference does not end.
TWIN = f"""
import sys, time
from sasa.speed import twin

measured = twin.Pair.time

def time_until_inference(pair, passed, rounds, seconds):
    if passed == twin.TRAINING:
        return measured(pair, passed, rounds, seconds)
    print({MEASURING!r}, file=sys.stderr, flush=True)
    time.sleep({2 * PATIENCE})

twin.Pair.time = time_until_inference
from sasa.cli.main import main
main()
"""


def stopped(program, number, *words):
    """Status, stdout and stderr of a command that got a signal while it measured."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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


def files_in(folder):
    return {name: folder / f"report.{name}" for name in ("md", "json", "png")}


def words_of(files):
    options = ("--markdown", files["md"], "--json", files["json"], "--picture", files["png"])
    return ["bench", "--quick", "--rows", "inference,training", *options]


def verdicts(path):
    return {row["name"]: row["verdict"] for row in json.loads(path.read_text())["rows"]}


REPORT = {
    "inference/full": "goal met",
    "inference/convstem": "MISSED",
    "training/full": "not measured: stopped",
    "training/convstem": "not measured: stopped",
}


@pytest.mark.parametrize(
    ("number", "status", "how"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM")]
)
def test_a_stop_leaves_a_report(tmp_path, number, status, how):
    files = files_in(tmp_path)
    got, out, error = stopped(TABLE, number, *words_of(files))
    assert got == status, error
    saved = ", ".join(map(str, files.values()))
    assert error.splitlines()[-1] == f"sasa: {how}: 2 of 4 rows were measured, and stand above; saved in {saved}"
    assert verdicts(files["json"]) == REPORT
    reason = how.removeprefix("stopped by ")
    assert json.loads(files["json"].read_text())["stopped"] == reason
    for text in (out, files["md"].read_text()):
        lines = [line for line in text.splitlines() if line.startswith(("| full", "| conv"))]
        assert [line.split("|")[-2].strip() for line in lines] == list(REPORT.values())
        assert f"The run was stopped: {reason}." in text
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_what_was_killed_leaves_the_last_whole_files(tmp_path):
    files = files_in(tmp_path)
    got, out, _ = stopped(TABLE, signal.SIGKILL, *words_of(files))
    assert got == -signal.SIGKILL
    assert verdicts(files["json"]) == REPORT
    text = files["md"].read_text()
    assert text.count("not measured: stopped") == 2
    assert "The run was stopped: it was killed." in text
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert "| full attention / resnet50, inference " in out  # printed when it came
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md", "report.png"]


def test_a_stop_while_a_run_is_timed(tmp_path, run_folder):
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run_folder.iterdir():
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
