"""Ctrl-C and SIGTERM: the first asks the loop to save and stop, a second one ends at once."""

import signal
from types import FrameType
from typing import ClassVar

from sasa.errors import SasaError


class StoppedError(SasaError):
    """Training was stopped by a signal, after saving; the exit status is 128 + the signal's number."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.exit_status = 128 + number


class StopRequest:
    """While entered, `signal_number` is None until SIGINT or SIGTERM arrives, and then its number.

    One that is entered within another begins with what the other has heard: a run whose building a signal met stops
    after its first step.
    """

    _entered: ClassVar[list["StopRequest"]] = []

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if self._entered:
            self.signal_number = self._entered[-1].signal_number
        self._entered.append(self)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        signal.signal(number, signal.SIG_DFL)
