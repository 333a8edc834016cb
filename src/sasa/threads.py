"""Threads on a machine that others use too: how many, how long they spin, and how long their turns on a core are.

The command line calls `prepare` before torch is imported, since OpenMP reads its settings when it is loaded. Importing
`sasa` changes nothing of this. benchmarks/cpu/busy.py measures what each setting costs and brings.
"""

import contextlib
import ctypes
import math
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

# Checks of a barrier before a thread sleeps. By default libgomp checks 300,000 times, milliseconds, in which the
# thread that it waits for may need that very core. 10,000 checks outlast what Python does between two operations, so
# that an idle machine loses little (benchmarks/README.md).
SPINS = 10_000
# A turn of a thread on a core that it shares, in nanoseconds: the least that Linux grants. Its share stays the same,
# but the threads that wait for it at a barrier do so for this long, and not for the milliseconds of an ordinary turn.
TURN = 100_000

SPIN_COUNT, WAIT_POLICY, THREADS = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"
# (sched_setattr, sched_getattr): Python has neither.
SYSTEM_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
ORDINARY = 0  # SCHED_OTHER


class SchedulingAttributes(ctypes.Structure):
    """`struct sched_attr` of Linux in its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def prepare() -> None:
    """Settle spinning, turns and threads for this process and those that it starts, before torch is imported.

    Where torch is there already, its caller has settled them: nothing happens.
    """
    if "torch" in sys.modules:
        return
    os.environ.update(settings(os.environ, cores(), affinity()))
    request_turns(TURN)


def settings(environment: Mapping[str, str], cores: int, affinity: int) -> dict[str, str]:
    """The variables to add to an environment. What the user has set is left alone.

    Args:
        environment: as it is.
        cores: that this process may use.
        affinity: the cores that OpenMP would start threads for; more than `cores` under a quota.
    """
    added = {}
    if not environment.keys() & {SPIN_COUNT, WAIT_POLICY}:
        added[SPIN_COUNT] = str(SPINS)
    if cores < affinity and THREADS not in environment:
        added[THREADS] = str(cores)
    return added


def waiting(environment: Mapping[str, str]) -> str:
    """How OpenMP's threads wait for one another with these variables, as `sasa doctor` says it."""
    if SPIN_COUNT in environment:
        return f"at most {environment[SPIN_COUNT]} checks of a barrier, then sleep ({SPIN_COUNT})"
    if WAIT_POLICY in environment:
        return f"{environment[WAIT_POLICY]} ({WAIT_POLICY})"
    return "OpenMP's default"


def affinity() -> int:
    """Cores that this process may run on (taskset, Slurm, cpusets)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Cores that this process may use: its affinity, or a smaller quota of its control group, rounded up."""
    quota = cpu_quota()
    return affinity() if quota is None else min(affinity(), max(1, math.ceil(quota)))


def cpu_quota(system: Path = Path("/")) -> float | None:
    """Processors that the control group (version 2) of this process may fill, or None without a limit.

    Args:
        system: the folder that holds proc and sys.
    """
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return None
    root = system / "sys/fs/cgroup"
    quotas = []
    for group in (root / own, *(root / own).parents):
        if not group.is_relative_to(root):
            break
        with contextlib.suppress(OSError, ValueError):  # the root has no such file; "max" is no number
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def request_turns(nanoseconds: int) -> bool:
    """Ask for turns of this length for the calling thread and what it starts; whether the system took the request.

    Linux grants it from 6.12 on, ignores it before, and keeps the share of the processor as it was. A thread with
    another scheduling policy than the ordinary one is left alone.
    """
    attributes = scheduling()
    if attributes is None or attributes.policy != ORDINARY:
        return False
    attributes.runtime = nanoseconds
    call, _ = SYSTEM_CALLS[platform.machine()]
    return ctypes.CDLL(None).syscall(call, 0, ctypes.byref(attributes), 0) == 0


def scheduling() -> SchedulingAttributes | None:
    """How the calling thread is scheduled, or None where the system does not say."""
    if sys.platform != "linux" or platform.machine() not in SYSTEM_CALLS:
        return None
    attributes = SchedulingAttributes()
    _, call = SYSTEM_CALLS[platform.machine()]
    failed = ctypes.CDLL(None).syscall(call, 0, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    return None if failed else attributes


def turns() -> str:
    """The length of this process's turns on a core that it shares, as `sasa doctor` says it."""
    attributes = scheduling()
    if attributes is None or not attributes.runtime:  # Linux before 6.12 gives 0
        return "the system's"
    return f"{attributes.runtime / 1e6:.1f} ms"


def load() -> str:
    """How many threads of the whole machine wanted a core during the last minute, as `sasa doctor` says it."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    average, machine = os.getloadavg()[0], os.cpu_count() or 1
    return f"{average:.1f} on {machine} cores in the last minute"
