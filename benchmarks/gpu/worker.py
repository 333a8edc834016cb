"""The process that measures: one for each back-end, replaced when a kernel breaks its CUDA context or hangs.

The library chooses its GPU kernels when it is loaded (SASA_GPU), and after an illegal access every later CUDA call of
the process fails. So rows run in a child, by name, and the parent waits for a limited time.
"""

import gc
import multiprocessing
import os
import time
from multiprocessing.connection import Connection

from benchmarks.gpu.rows import FAILED, Bench, Values

STARTUP = 180.0  # seconds for importing torch and creating a CUDA context


class Worker:
    """A child process with a given back-end.

    Args:
        backend: value of SASA_GPU.
        bench: the setting.
    """

    def __init__(self, backend: str, bench: Bench) -> None:
        os.environ["SASA_GPU"] = backend
        self.backend = backend
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, bench))
        self._process.start()
        theirs.close()
        self.machine = self._receive(STARTUP)
        self.usable = FAILED not in self.machine

    def run(self, name: str, seconds: float) -> Values:
        """The result of a row; `usable` is False afterwards if this process can measure no other."""
        began = time.monotonic()
        self._connection.send(name)
        values = self._receive(seconds)
        self.usable = not values.pop("context lost", False)
        return {**values, "s": time.monotonic() - began}

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _receive(self, seconds: float) -> Values:
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
            reason = f"stopped after {seconds:.0f} s"
        except EOFError:
            self._process.join()
            reason = f"the process ended with exit status {self._process.exitcode}"
        return {FAILED: reason, "context lost": True}


def _serve(connection: Connection, bench: Bench) -> None:
    """Measure the rows whose names arrive, until the parent closes the connection."""
    from benchmarks.gpu.all_rows import all_rows, prepare

    rows = {row.name: row for row in all_rows(bench)}
    connection.send(prepare(bench))
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        connection.send(_measured(lambda row=rows[name]: row.measure(bench)))


def _measured(measure) -> Values:
    """The result, or the first line of the error; and whether CUDA still works in this process."""
    import torch

    try:
        values = measure()
    except Exception as error:  # out of memory, a compiler's: the result of this row
        values = {FAILED: _first_line(error)}
    gc.collect()
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except Exception as error:
        values = {FAILED: values.get(FAILED) or _first_line(error), "context lost": True}
    return values


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
