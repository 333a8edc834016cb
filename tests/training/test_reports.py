"""Reports: the bar fits into the terminal, and a pipe gets plain lines."""

import errno
import io
import re

import pytest
from rich.console import Console

from sasa.training import reports
from sasa.training.reports import Progress

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ROW = {"epoch": 3, "train_loss": 2.1, "train_top1": 0.243, "held_out_loss": 1.7, "held_out_top1": 0.5}


@pytest.fixture
def at_once(monkeypatch):
    """Every step redraws the bar, or prints a line. The variables are those of a terminal that can draw one."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("FORCE_COLOR", raising=False)  # rich takes a file for a terminal then
    monkeypatch.setattr(reports, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr(reports, "LINE_SECONDS", 0.0)


def shown(console, total, steps, speed):
    """All text written to a console during some steps and one epoch."""
    progress = Progress(total, 0, console)
    for step in range(1, steps + 1):
        progress.step(step, 0.1, 12.345, speed)
    progress.epoch(ROW)
    progress.close()
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 132, 200])
@pytest.mark.parametrize(("total", "speed"), [(40, 8.0), (300_000, 98_765.0), (30_000_000, 1_234_567.0)])
def test_the_bar_is_never_wider_than_the_terminal(at_once, width, total, speed):
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=width)
    text = shown(console, total, 5, speed)
    lines = [line for line in re.split(r"[\r\n]", ESCAPES.sub("", text)) if line]
    drawn = [line for line in lines if not line.startswith("epoch")]
    assert len(drawn) >= 5
    assert max(map(len, drawn)) <= width


def test_a_terminal_of_80_columns_shows_every_figure(at_once):
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=80)
    text = ESCAPES.sub("", shown(console, 300_000, 5, 9_876.0))
    for part in ("step 5/300000", "loss 12.345", "9876 images/s", " GB"):
        assert part in text
    assert "epoch   3  train loss 2.100 top-1 24.3%  held out loss 1.700 top-1 50.0%\n" in text


@pytest.mark.parametrize(
    "columns", ["train_loss train_top1 held_out_loss held_out_top1", "train_loss train_box held_out_map held_out_map75"]
)
def test_the_line_of_an_epoch_fits_into_80_columns(columns):
    row = {"epoch": 1000, **dict.fromkeys(columns.split(), 1.0), "images_per_second": 5.0}
    console = Console(file=io.StringIO())
    Progress(1, 0, console).epoch(row)
    assert len(console.file.getvalue()) < 80


def test_a_pipe_gets_lines_without_escapes_that_are_not_wrapped(at_once):
    text = shown(Console(file=io.StringIO()), 300_000, 2, 9_876.0)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert re.fullmatch(r"step 1/300000  loss 12\.345  9876 images/s  \S+ left  \d+\.\d GB", lines[0])
    assert lines[2] == "epoch   3  train loss 2.100 top-1 24.3%  held out loss 1.700 top-1 50.0%"
    assert len(lines) == 3


def test_lines_in_a_pipe_are_spaced_in_time():
    assert shown(Console(file=io.StringIO()), 300_000, 50, 9_876.0).count("\n") == 1


def test_the_cursor_stays_visible(at_once):
    """A second Ctrl-C ends the process at once: nothing would show the cursor again."""
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=80)
    progress = Progress(40, 0, console)
    for step in range(1, 4):
        progress.step(step, 0.1, 1.0, 1.0)
        hidden, visible = (console.file.getvalue().rfind(code) for code in ("\x1b[?25l", "\x1b[?25h"))
        assert visible > hidden
    progress.close()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "the terminal is closed"), SystemExit(1)])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_run_goes_on_if_its_output_is_closed(at_once, error, terminal):
    """rich exits on a closed pipe; a closed terminal or a full disk is an error of the system."""

    class Closed(io.StringIO):
        def write(self, text):
            raise error

    console = Console(file=Closed(), force_terminal=terminal, force_interactive=terminal, width=80)
    assert shown(console, 40, 3, 8.0) == ""
