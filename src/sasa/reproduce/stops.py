"""Ctrl-C and SIGTERM over many runs, each of which has a `StopRequest` of its own."""

import os
import signal

from sasa.training.signals import StoppedError, StopRequest


class Stops(StopRequest):
    """A `StopRequest` that also hears of signals which one within it took.

    A run that gets a signal in its last step just ends, and nobody would know of it. Python writes the number of every
    signal that it handles to one file, whoever handles it: that file is read here.
    """

    def __enter__(self) -> "Stops":
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._file_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        signal.set_wakeup_fd(self._file_before)
        os.close(self._read)
        os.close(self._write)

    def check(self, sentence: str) -> None:
        """Leave with the sentence, if a signal came.

        Raises:
            StoppedError: one did.
        """
        try:
            came = os.read(self._read, 4096)
        except BlockingIOError:
            came = b""
        numbers = [number for number in came if number in (signal.SIGINT, signal.SIGTERM)]
        if numbers:
            raise StoppedError(sentence, numbers[-1])
