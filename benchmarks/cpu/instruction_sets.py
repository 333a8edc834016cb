"""Comparisons with all libraries held at AVX2: what a machine without AVX-512 has."""

import functools
import platform

import torch

from sasa.speed.comparison import Compare, Measured, NotMeasuredError
from sasa.speed.isolated import in_a_process
from sasa.speed.setting import Setting

HELD = "avx2-"  # begins the names of groups that are held at AVX2
# What holds each library: our kernels, oneDNN's convolutions, ATen's loops, MKL's matrix products (Intel's CPUs only).
AVX2 = {
    "SASA_CPU": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def held_at_avx2(compare: Compare) -> Compare:
    """The same comparison in a process where all libraries are held at AVX2. `compare` is a function of a module."""

    @functools.wraps(compare)
    def held(setting: Setting) -> Measured:
        reason = why_no_avx2()
        if reason:
            raise NotMeasuredError(reason)
        answer = in_a_process(compare, setting, AVX2)
        if answer.vectors != "AVX2":
            raise NotMeasuredError(f"torch was to be held at AVX2, and uses {answer.vectors}")
        note = f"in a process of its own: ATen with {answer.vectors}, our kernels with {answer.kernels or 'none'}"
        return Measured(**{**answer.result, "note": note})

    return held


def why_no_avx2() -> str | None:
    """A sentence where torch cannot be held at AVX2 here; None where it can."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return "AVX2 is an instruction set of x86, which this machine is not"
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return "this machine has no AVX2, or torch was told not to use it"
    return None


def avx2_is_all() -> bool:
    """Whether AVX2 is the widest that torch uses here: nothing is left to hold it from."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
