"""What ends a run of measurements early: Ctrl-C, SIGTERM, or the end of the time that it was given."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "SIGTERM"}


class StopMeasuringError(BaseException):
    """Raised in the middle of a measurement. Not an `Exception`: nothing that is measured may catch it."""


class Stop:
    """While entered, the first SIGINT or SIGTERM, or the end of the time, stops what is being measured.

    Elsewhere (while a file is written) it is only noted, and the next measurement does not begin. A second signal of
    the same kind ends the process. In a thread other than the main one, where Python takes no signals, nothing stops.

    Args:
        seconds: that all measurements together may take, from entering on; None for as long as they need. Not kept on
            systems without interval timers (Windows).

    Attributes:
        reason: why nothing more is measured; None until then.
        signal_number: of the signal that came, if one did.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self.reason: str | None = None
        self.signal_number: int | None = None
        self._measuring = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in REASONS:
            self._before[number] = signal.signal(number, self._stopped)
        if self.seconds is not None and hasattr(signal, "setitimer"):
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._time_is_over)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, *exception: object) -> None:
        if getattr(signal, "SIGALRM", None) in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Around what may be stopped in the middle.

        Raises:
            StopMeasuringError: now, or when the signal comes.
        """
        self._measuring = True
        try:
            if self.reason is not None:
                raise StopMeasuringError(self.reason)
            yield
        finally:
            self._measuring = False

    def _stopped(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.signal_number = number
        self._end(REASONS[signal.Signals(number)])

    def _time_is_over(self, number: int, frame: FrameType | None) -> None:
        self._end(f"the {self.seconds:.0f} seconds of --budget are over")

    def _end(self, reason: str) -> None:
        self.reason = self.reason or reason
        if self._measuring:
            raise StopMeasuringError(self.reason)
