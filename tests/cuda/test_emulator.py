"""The emulator itself: it runs kernels correctly, finds their mistakes, and counts as a profiler would."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cuda import emulator
from cuda.local_calls import Options, forward

pytestmark = pytest.mark.skipif(emulator.COMPILER is None, reason="no C++ compiler here (looked for g++ and clang++)")


class Mistake(ctypes.Structure):
    _fields_ = [("input", ctypes.c_void_p), ("output", ctypes.c_void_p), ("count", ctypes.c_int)]


def run(case: int, counts: emulator.Counts | None = None):
    values, output = torch.arange(60.0), torch.full((60,), float("nan"))
    emulator.launch(
        "mistakes.cuh", "sasa_mistakes", [("SASA_CASE", case)], grid=(1, 1, 1), threads=64, shared=256,
        arguments=[Mistake(values.data_ptr(), output.data_ptr(), 60)], reads=[values], writes=[output], counts=counts,
    )  # fmt: skip
    return output


def test_a_kernel_without_mistakes():
    padded = torch.cat([torch.arange(60.0), torch.zeros(4)]).flip(0)
    want = (padded + padded.view(32, 2).flip(1).flatten())[:60]
    counts = emulator.Counts()
    assert torch.equal(run(0, counts), want)
    assert counts.as_dict() | {"copy_bytes": 0} == dict.fromkeys(counts.as_dict(), 0) | {
        "blocks": 1, "shuffles": 2, "barriers": 4, "global_loads": 2, "global_load_sectors": 8,
        "global_load_bytes": 240,
        "global_stores": 2, "global_store_sectors": 8, "global_store_bytes": 240, "shared_loads": 2,
        "shared_load_wavefronts": 2, "shared_load_ideal": 2, "shared_stores": 2, "shared_store_wavefronts": 2,
        "shared_store_ideal": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("case", "sentence"), [
    (1, "a global load of 4 bytes outside of all buffers"), (2, "a race: shared offset 128 was read by thread 31"),
    (3, "a race: shared offset 124 was written by thread 31"), (4, "a shared access of 4 bytes at offset 256 of 256"),
    (5, "lane 0 has come to shfl and lane 16 to the end of the kernel"), (7, "warp 0 has come to __syncthreads"),
    (8, "a store into a buffer that is only read"),
])  # fmt: skip
def test_mistakes_that_it_finds(case, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        run(case)
    run(0)  # and continues after it


def test_a_copy_arrives_when_it_is_waited_for():
    """A read before the wait returns the old content."""
    with pytest.raises(RuntimeError, match="a race"):
        run(6)


def test_forward_has_no_bank_conflicts():
    """At most 1.1 wavefronts of shared memory for each that the accesses need."""
    options = Options(7, 2, 64)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 3 * 128, 14, 14, generator=generator).to(torch.bfloat16, memory_format=torch.channels_last)
    tables = [torch.randn(2, 7, 32, generator=generator) for _ in range(2)]
    counts = emulator.Counts()
    forward(*maps.chunk(3, 1), *tables, options, counts=counts)
    taken = counts.shared_load_wavefronts + counts.shared_store_wavefronts + counts.copy_wavefronts
    assert taken <= 1.1 * (counts.shared_load_ideal + counts.shared_store_ideal + counts.copy_ideal)


def compiler_file(name: str) -> str | None:
    """A file of the compiler's libraries, if it has it."""
    command = [str(emulator.COMPILER), f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return path if Path(path).is_absolute() else None


def test_address_sanitizer_finds_nothing():
    """All three kernels once more, with every access of theirs checked, those to arrays on the fibers' stacks too."""
    libraries = [compiler_file(name) for name in ("libasan.so", "libstdc++.so")]
    if None in libraries:
        pytest.skip(f"{emulator.COMPILER} has no AddressSanitizer here")
    here = Path(__file__).parents[2]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(map(str, libraries)),
        "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0:detect_odr_violation=0",  # those are torch's
        "SASA_EMULATE_FLAGS": "-fsanitize=address",
    }
    test = "tests/cuda/test_local.py::test_an_odd_number_of_heads"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=here, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1 passed" in done.stdout
