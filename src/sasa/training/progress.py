"""What a run tells while it goes: a bar on a terminal, a line an epoch and now and then elsewhere."""

import sys
import time
from typing import Any, TextIO

from sasa.training.memory import peak_memory_gb

WIDTH = 20  # of the bar, in characters
PARTS = {"train": "train_", "held out": "held_out_"}  # of a row of metrics
SHARES = {"top1": "top-1", "map": "mAP", "map50": "mAP 50", "map75": "mAP 75"}  # figures that are shares of 1


class Progress:
    """Prints each epoch's metrics; between them on a terminal a bar, elsewhere a line every half minute."""

    def __init__(
        self, total_steps: int, steps_per_epoch: int, first_step: int = 0, stream: TextIO | None = None
    ) -> None:
        self.total, self.per_epoch, self.first = total_steps, steps_per_epoch, first_step
        self.stream = stream or sys.stdout
        self.began = time.monotonic()
        self._last = self.began

    def step(self, step: int, loss: float, images_per_second: float) -> None:
        """Redraw the bar, ten times a second at most; without a terminal write a line every half minute."""
        now = time.monotonic()
        terminal = self.stream.isatty()
        if now - self._last < (0.1 if terminal else 30.0):
            return
        self._last = now
        left = clock((now - self.began) / max(1, step - self.first) * (self.total - step))
        text = (
            f"step {step}/{self.total}  loss {loss:.3f}  {images_per_second:.0f} images/s  {left} left  "
            f"{peak_memory_gb():.1f} GB"
        )
        if terminal:
            filled = round(WIDTH * (step % self.per_epoch or self.per_epoch) / self.per_epoch)
            self.stream.write(f"\r[{'#' * filled}{'.' * (WIDTH - filled)}] {text}\x1b[K")
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def epoch(self, row: dict[str, Any]) -> None:
        """One line of metrics."""
        start = "\r\x1b[K" if self.stream.isatty() else ""
        figures = "  ".join(f"{part} {_figures(row, prefix)}" for part, prefix in PARTS.items())
        self.stream.write(f"{start}epoch {row['epoch']:3d}  {figures}  {row['images_per_second']:.0f} images/s\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave the bar's line."""
        if self.stream.isatty():
            self.stream.write("\n")
            self.stream.flush()


def _figures(row: dict[str, Any], prefix: str) -> str:
    """ "loss 0.693 top-1 51.23%" of the figures whose names begin so: shares of images are in percent."""
    found = ((name.removeprefix(prefix), value) for name, value in row.items() if name.startswith(prefix))
    return " ".join(f"{SHARES[n]} {value:.2%}" if n in SHARES else f"{n} {value:.3f}" for n, value in found)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
