"""SIGINT (Ctrl-C) and SIGTERM: the first asks the loop to save and stop, a second one ends the process at once."""

import signal
from types import FrameType
from typing import ClassVar

from sasa.errors import SasaError


class StoppedError(SasaError):
    """A signal stopped the training, after saving; the exit status is 128 + the signal's number."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.exit_status = 128 + number


class StopRequest:
    """Context manager that records SIGINT and SIGTERM: `signal_number` is None until one of them arrives.

    A nested request starts with the signal that the outer one has received, if any: a run that gets a signal during
    setup stops after its first step.
    """

    _entered: ClassVar[list["StopRequest"]] = []

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if self._entered:
            self.signal_number = self._entered[-1].signal_number
        self._entered.append(self)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.remove(self)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        signal.signal(number, signal.SIG_DFL)
