"""Stop measurements early: on Ctrl-C, on SIGTERM, or when their time budget has passed."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

REASONS = {signal.SIGINT: "interrupted", signal.SIGTERM: "SIGTERM"}


class StopMeasuringError(BaseException):
    """Raised inside a measurement to end it. Not an `Exception`, so that measured code does not catch it."""


class Stop:
    """While entered, the first SIGINT, SIGTERM or the end of the budget stops the current measurement.

    Outside `measuring()`, for example while a file is written, the request is only recorded, and the next measurement
    does not begin. A second signal of the same kind ends the process. Outside the main thread, where Python handles no
    signals, nothing stops.

    Args:
        seconds: budget of all measurements together, from entering on; None for no limit. Ignored on systems without
            interval timers (Windows).

    Attributes:
        reason: why measuring stopped; None until then.
        signal_number: the signal that was received, if any.
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
            self._before[number] = signal.signal(number, self._on_signal)
        if self.seconds is not None and hasattr(signal, "setitimer"):
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._on_alarm)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, *exception: object) -> None:
        if getattr(signal, "SIGALRM", None) in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Mark a block that may be interrupted.

        Raises:
            StopMeasuringError: immediately if a stop was already requested, else as soon as it is.
        """
        self._measuring = True
        try:
            if self.reason is not None:
                raise StopMeasuringError(self.reason)
            yield
        finally:
            self._measuring = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.signal_number = number
        self._request(REASONS[signal.Signals(number)])

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        self._request(f"the budget of {self.seconds:.0f} seconds has passed")

    def _request(self, reason: str) -> None:
        self.reason = self.reason or reason
        if self._measuring:
            raise StopMeasuringError(self.reason)
