"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal): the first asks the loop to save and stop.

A second one ends the process at once. A signal that the parent process ignores stays ignored: `nohup` does so with
SIGHUP, and a shell script with the SIGINT of a command in the background.
"""

import signal
from types import FrameType
from typing import ClassVar

from sasa.errors import SasaError

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(SasaError):
    """A signal stopped the training, after saving; the exit status is 128 + the signal's number."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.exit_status = 128 + number


class StopRequest:
    """Context manager that records the signals of STOPPING: `signal_number` is None until one of them arrives.

    A nested request starts with the signal that the outer one has received, if any: a run that gets a signal during
    setup stops after its first step. The outer one also records signals that arrive in the nested one: a run that gets
    a signal in its last step ends normally, and the runs after it must not start.
    """

    _entered: ClassVar[list["StopRequest"]] = []

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if self._entered:
            self.signal_number = self._entered[-1].signal_number
        self._entered.append(self)
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.remove(self)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for request in self._entered:
            request.signal_number = number
        signal.signal(number, signal.SIG_DFL)

    def check(self, sentence: str) -> None:
        """Raise with the sentence if a signal has arrived.

        Raises:
            StoppedError: a signal of STOPPING arrived.
        """
        if self.signal_number is not None:
            raise StoppedError(sentence, self.signal_number)
