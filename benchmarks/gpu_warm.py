"""Compile the networks ahead in several processes: torch keeps what it compiled on the disk, whoever did it.

One after the other the twelve networks would take most of ten minutes. A process that fails costs nothing but time:
what it did not compile is compiled when it is measured.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sasa.speed import Setting

PROCESSES, THREADS = 4, 4  # a process holds the memory of one training step
PATIENCE = 200.0  # seconds, for all
Case = tuple[str, int, str]  # side, batch, pass


def warm(cases: Sequence[Case], setting: Setting, device: str = "cuda", seconds: float = PATIENCE) -> str:
    """Compile the cases, process by process a share of them; how that went, in words."""
    until = time.monotonic() + seconds
    shares = [list(cases[first::PROCESSES]) for first in range(min(PROCESSES, len(cases)))]
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(process(share, setting, device)) for share in shares]
        said = [finished(*one, until) for one in running]
    failed = [words for words in said if words is not None]
    done = f"{len(said) - len(failed)} of {len(said)} processes compiled their share of {len(cases)}"
    return "; ".join([done, *dict.fromkeys(failed)])


@contextlib.contextmanager
def process(cases: Sequence[Case], setting: Setting, device: str) -> Iterator[tuple[subprocess.Popen, BinaryIO]]:
    """A running process, and the file of what it says; it has ended afterwards, whatever happens."""
    request = json.dumps({"setting": setting.to_dict(), "cases": cases, "device": device})
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(THREADS)}
    with tempfile.TemporaryFile() as errors:
        words = [sys.executable, "-W", "ignore", Path(__file__), request]
        running = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            yield running, errors
        finally:
            if running.poll() is None:
                running.kill()
                running.wait()


def finished(running: subprocess.Popen, errors: BinaryIO, until: float) -> str | None:
    """None when it did all it should before the time was over, else why not."""
    try:
        if running.wait(max(0.0, until - time.monotonic())) == 0:
            return None
    except subprocess.TimeoutExpired:
        return "not ready in time"
    errors.seek(0)
    return (errors.read().decode(errors="replace").strip().splitlines() or [f"status {running.returncode}"])[-1][:150]


def main() -> None:
    """One process: compile the share that the command line names, and go on where one fails."""
    from gpu_device import Device
    from gpu_networks import compile_one

    words = json.loads(sys.argv[1])
    setting, device, failed = Setting.from_dict(words["setting"]), Device(words["device"]), 0
    device.settings()
    for side, batch, passed in words["cases"]:
        try:
            compile_one(side, replace(setting, batch=batch), passed, device)
        except Exception as reason:
            said = " ".join(str(reason).split())
            print(f"{side}, {batch}, {passed}: {type(reason).__name__}: {said}", file=sys.stderr)
            failed += 1
        device.release()
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
