"""Comparisons beyond the acceptance table, and measured values as text."""

import json
import math

import pytest

from benchmarks.common import cell, first_line, in_words, plain, table_of
from benchmarks.cpu import full
from benchmarks.cpu.ceilings import Ceilings
from sasa.speed import Stop, StopMeasuringError

CEILINGS = Ceilings(2, 100e9, 60e9, 10e9, 20e9)


def test_a_table_has_a_column_for_every_name():
    lines = [{"map": "a", "ms": 1.5}, {"map": "b", "note": "failed"}]
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in table_of(lines).splitlines()]
    assert [rows[0], *rows[2:]] == [["map", "ms", "note"], ["a", "1.50", "-"], ["b", "-", "failed"]]
    assert in_words({"map": "a", "ms": 1.5, "note": None}) == "map a, ms 1.50"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (3, "3"), (1e-7, "1.0e-07"), (0.01234, "0.0123"), (1.234, "1.23"), (123.4, "123")]
)
def test_digits_of_a_value(value, text):
    assert cell(value) == text


def test_values_that_json_cannot_hold_become_text():
    values = plain({"a": (1.0, math.inf), 2: [math.nan]})
    assert json.loads(json.dumps(values, allow_nan=False)) == {"a": [1.0, "inf"], "2": ["nan"]}


def test_an_error_in_one_line():
    assert first_line(RuntimeError("\nno memory\nand more")) == "RuntimeError: no memory"
    assert first_line(KeyError()) == "KeyError: "


def test_a_part_that_fails_ends_with_a_note():
    def part():
        yield {"ms": 1.0}
        raise RuntimeError("no memory")

    assert list(full.lines_of(part(), Stop())) == [{"ms": 1.0}, {"note": "failed: RuntimeError: no memory"}]


def test_a_stop_ends_a_part():
    stop = Stop()
    stop.reason = "SIGTERM"
    with pytest.raises(StopMeasuringError, match="SIGTERM"):
        list(full.lines_of(iter([{"ms": 1.0}]), stop))


def test_parts_are_measured_and_saved(monkeypatch, tmp_path, capsys):
    def layers(bench):
        """Layers."""
        yield {"map": "7 x 7", "ms": 1.0, "batch": bench.setting.batch, "backend": bench.backend}

    monkeypatch.setattr(full, "measure_ceilings", lambda threads: CEILINGS)
    monkeypatch.setattr(full, "PARTS", {"layers": layers})
    files = ["--json", str(tmp_path / "f.json"), "--markdown", str(tmp_path / "f.md")]
    assert full.main(["layers", "--quick", "--backend", "eager", *files]) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["parts"] == {"layers": [{"map": "7 x 7", "ms": 1.0, "batch": 1, "backend": "eager"}]}
    assert found["stopped"] is None
    assert "## layers: Layers." in (tmp_path / "f.md").read_text()
    assert "map 7 x 7, ms 1.00" in capsys.readouterr().out


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        full.main(["speed"])
    assert "unknown part 'speed', must be one of operator, layers" in capsys.readouterr().err


def test_attention_cores_have_the_flops_of_their_formula():
    pixels, channels, keys = 7 * 7, 512, 49
    products = 2 * pixels * channels * (2 * keys + 7)  # q.k and a.v; q.r by K rows and K columns of half the channels
    assert full.core_flops(1, channels, 7, 7) == products
