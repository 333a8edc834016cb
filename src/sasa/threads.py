"""Thread settings for a machine that is shared: number of threads, time that they spin, length of a time slice.

The command line calls `prepare` before torch is imported, since OpenMP reads its settings when it is loaded. Importing
`sasa` changes none of them. benchmarks/cpu/busy.py measures the cost and benefit of each setting.
"""

import contextlib
import ctypes
import math
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

# Checks of a barrier before a thread sleeps. libgomp's default, 300,000 checks, takes milliseconds, during which the
# thread that it waits for may need that core. 10,000 checks take longer than Python needs between two operations, so an
# idle machine loses little (benchmarks/README.md).
SPINS = 10_000
# Time slice of a thread on a shared core, in nanoseconds: the shortest that Linux grants. The thread's share of the
# core stays the same, but threads that wait for it at a barrier wait this long, not the milliseconds of a usual slice.
TURN = 100_000

SPIN_COUNT, WAIT_POLICY, THREADS = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"
# Numbers of sched_setattr and sched_getattr, which Python does not provide.
SYSTEM_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
ORDINARY = 0  # SCHED_OTHER


class SchedulingAttributes(ctypes.Structure):
    """The first version of Linux's `struct sched_attr`."""

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
    """Set spinning, time slices and number of threads for this process and its children, before torch is imported.

    Does nothing if torch is imported already.
    """
    if "torch" in sys.modules:
        return
    os.environ.update(settings(os.environ, cores(), affinity()))
    request_turns(TURN)


def settings(environment: Mapping[str, str], cores: int, affinity: int) -> dict[str, str]:
    """The variables to add to an environment; those that the user has set are kept.

    Args:
        environment: the present variables.
        cores: number of cores that this process may use.
        affinity: number of cores that OpenMP would start threads for; more than `cores` under a quota.
    """
    added = {}
    if not environment.keys() & {SPIN_COUNT, WAIT_POLICY}:
        added[SPIN_COUNT] = str(SPINS)
    if cores < affinity and THREADS not in environment:
        added[THREADS] = str(cores)
    return added


def waiting(environment: Mapping[str, str]) -> str:
    """Describe for `sasa doctor` how OpenMP's threads wait for one another with these variables."""
    if SPIN_COUNT in environment:
        return f"at most {environment[SPIN_COUNT]} checks of a barrier, then sleep ({SPIN_COUNT})"
    if WAIT_POLICY in environment:
        return f"{environment[WAIT_POLICY]} ({WAIT_POLICY})"
    return "OpenMP's default"


def affinity() -> int:
    """Number of cores that this process may run on (taskset, Slurm, cpusets)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Number of cores that this process may use: its affinity, or the quota of its control group if smaller."""
    quota = cpu_quota()
    return affinity() if quota is None else min(affinity(), max(1, math.ceil(quota)))


def cpu_quota(system: Path = Path("/")) -> float | None:
    """CPU quota of the control group (version 2) of this process, in cores, or None without a limit.

    Args:
        system: the directory with proc and sys.
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
        with contextlib.suppress(OSError, ValueError):  # the root has no such file; "max" is not a number
            quota, period = (group / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def request_turns(nanoseconds: int) -> bool:
    """Request time slices of this length for the calling thread and its children; return whether it was accepted.

    Linux grants them from 6.12 on and ignores the request before; the share of the processor stays the same. Threads
    with a scheduling policy other than the default are not changed.
    """
    attributes = scheduling()
    if attributes is None or attributes.policy != ORDINARY:
        return False
    attributes.runtime = nanoseconds
    call, _ = SYSTEM_CALLS[platform.machine()]
    return ctypes.CDLL(None).syscall(call, 0, ctypes.byref(attributes), 0) == 0


def scheduling() -> SchedulingAttributes | None:
    """Scheduling attributes of the calling thread, or None if the system does not report them."""
    if sys.platform != "linux" or platform.machine() not in SYSTEM_CALLS:
        return None
    attributes = SchedulingAttributes()
    _, call = SYSTEM_CALLS[platform.machine()]
    failed = ctypes.CDLL(None).syscall(call, 0, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    return None if failed else attributes


def turns() -> str:
    """Describe for `sasa doctor` the length of this process's time slices on a shared core."""
    attributes = scheduling()
    if attributes is None or not attributes.runtime:  # Linux before 6.12 reports 0
        return "the system's"
    return f"{attributes.runtime / 1e6:.1f} ms"


def load() -> str:
    """Describe for `sasa doctor` how many threads of the machine needed a core during the last minute."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    average, machine = os.getloadavg()[0], os.cpu_count() or 1
    return f"{average:.1f} on {machine} cores in the last minute"
