"""Writes checkpoints in a forked process, kills it at a random moment, and checks that one loads; N times.

Run by test_checkpoints.py, in a process of its own: forking is cheaper than starting Python 50 times.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from sasa.training.run_directory import RunDirectory

SIZE = 500_000  # floats of a checkpoint


def write_forever(directory: RunDirectory, step: int) -> None:
    while True:
        step += 1
        directory.save_checkpoint({"step": step, "weights": torch.full((SIZE,), float(step))})


def main() -> None:
    torch.set_num_threads(1)  # a forked process has no pool of threads, and could wait for one forever
    directory, kills = RunDirectory(Path(sys.argv[1])), int(sys.argv[2])
    chance, step, fallbacks = random.Random(0), 0, 0
    for _ in range(kills):
        child = os.fork()
        if not child:
            write_forever(directory, step)
        while not directory.checkpoint_path.exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the writer ended by itself"
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        state, note = directory.load_checkpoint()
        assert state["step"] >= step, (state["step"], step)
        assert bool((state["weights"] == state["step"]).all())
        step, fallbacks = state["step"], fallbacks + (note is not None)
        directory.set_damaged_aside() if note else None
    print(kills, "kills,", step, "checkpoints,", fallbacks, "times the one before the last")


main()
