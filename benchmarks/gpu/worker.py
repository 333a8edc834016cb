"""The process that measures: one for each back-end, replaced when a kernel breaks its CUDA context or hangs.

The library chooses its GPU kernels when it is loaded (SASA_GPU), and after an illegal access every later CUDA call of
the process fails. So rows run in a child, by name, and the parent waits for a limited time.
"""

import gc
import multiprocessing
import os
import time
from multiprocessing.connection import Connection

import torch

from benchmarks.common import first_line
from benchmarks.gpu import gate, kernels, layers, networks
from benchmarks.gpu.rows import FAILED, Bench, Row, Values

STARTUP = 180.0  # seconds for importing torch and creating a CUDA context


def all_rows(bench: Bench) -> list[Row]:
    """Correctness, kernels, the stem, launching, and networks: first of the CUDA kernels, then of Triton's."""
    return [
        *gate.rows(bench),
        *kernels.rows(bench),
        *layers.stem_rows("cuda"),
        *layers.launching_rows("cuda"),
        *networks.rows("cuda"),
        *layers.stem_rows("triton"),
        *layers.launching_rows("triton"),
        *networks.rows("triton"),
    ]


def prepare(bench: Bench) -> Values:
    """Set precision and compilers as every row expects them; the machine and the setting, for the record."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    setting = {"torch": torch.__version__, "batch": bench.batch, "quick": bench.quick}
    if not bench.on_gpu:
        return {"GPU": None, **setting}
    from torch._dynamo import config as dynamo

    torch.backends.cudnn.benchmark = True
    dynamo.fail_on_recompile_limit_hit = True  # a comparison must not fall back to eager
    return {"GPU": torch.cuda.get_device_name(), **setting}


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
    try:
        values = measure()
    except Exception as error:  # out of memory, a compiler's: the result of this row
        values = {FAILED: first_line(error)}
    gc.collect()
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except Exception as error:
        values = {FAILED: values.get(FAILED) or first_line(error), "context lost": True}
    return values
