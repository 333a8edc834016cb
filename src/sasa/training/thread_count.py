"""The number of threads is a part of a run: torch's sums are split by it, so their last bits depend on it."""

import os

import torch

from sasa.threads import THREADS, cores


def restore_thread_count(recorded: int | None) -> str | None:
    """Go on with as many threads as a run had; a sentence where that cannot be, since then the bits may differ.

    OMP_NUM_THREADS counts for more, and so does what the machine has.

    Args:
        recorded: the number in the checkpoint, or None in those of earlier versions.
    """
    now = torch.get_num_threads()
    if recorded is None or recorded == now:
        return None
    if THREADS in os.environ or recorded > cores():
        return (
            f"going on with {now} threads where the run had {recorded}: "
            "its results may differ from an uninterrupted run's in the last bits"
        )
    torch.set_num_threads(recorded)
    return None
