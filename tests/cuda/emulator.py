"""Builds CUDA kernels for the CPU and launches them: see csrc/cuda/device.h.

A kernel, with the macros that choose its variant, is one shared object, kept in build/emulation under a hash of all
sources, and is built once. Every access to memory is checked (emulation/memory.h).
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from torch import Tensor

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "emulation"
BUILD = ROOT / "build" / "emulation"
COMPILER = os.environ.get("CXX") or next((c for c in ("g++", "clang++") if shutil.which(c)), None)
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
FLAGS += os.environ.get("SASA_EMULATE_FLAGS", "").split()  # such as -fsanitize=address


class Counts(ctypes.Structure):
    """emulation/count.h: what a launch did, in instructions of warps."""

    _fields_ = [(name, ctypes.c_uint64) for name in """blocks multiply16 multiply8 load_matrix transposes shuffles votes
        barriers warp_barriers exponentials shared_loads shared_load_wavefronts shared_load_ideal shared_stores
        shared_store_wavefronts shared_store_ideal copies copy_wavefronts copy_ideal copy_sectors copy_bytes
        global_loads global_load_sectors global_load_bytes global_stores global_store_sectors global_store_bytes
        """.split()]  # fmt: skip

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name, _ in self._fields_}


@cache
def hash_of_sources() -> str:
    files = sorted([*(ROOT / "csrc" / "cuda").iterdir(), *HERE.iterdir(), ROOT / "csrc" / "kernels.h"])
    return hashlib.sha256(b"".join(f.read_bytes() for f in files if f.is_file())).hexdigest()


def compile_shared(source: Path, flags: Sequence[str]) -> Path:
    """Compile one C++ file to a shared object, unless it exists. Several processes may do so at the same time."""
    key = hashlib.sha256("\n".join([hash_of_sources(), str(COMPILER), str(source), *flags]).encode()).hexdigest()[:24]
    library = BUILD / f"{key}.so"
    if not library.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as directory:
            output = Path(directory) / "kernel.so"
            includes = [f"-I{d}" for d in (HERE, ROOT / "csrc", ROOT / "csrc" / "cuda")]
            command = [str(COMPILER), *flags, *includes, "-o", str(output), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[:4000]}"
            output.replace(library)
    return library


@cache
def load_kernel(source: str, kernel: str, defines: tuple[tuple[str, int], ...]) -> ctypes.CDLL:
    flags = [*FLAGS, "-DSASA_EMULATE", f'-DSASA_KERNEL_SOURCE="{source}"', f"-DSASA_KERNEL_NAME={kernel}"]
    flags += [f"-D{name}={value}" for name, value in defines]
    library = ctypes.CDLL(str(compile_shared(HERE / "kernel.cpp", flags)))
    library.emulate.restype = ctypes.c_char_p
    return library


def launch(
    source: str, kernel: str, defines: Sequence[tuple[str, int]], *, grid: Sequence[int], threads: int, shared: int,
    arguments: Sequence[ctypes.Structure | ctypes._SimpleCData],
    reads: Sequence[Tensor] = (), writes: Sequence[Tensor] = (), counts: Counts | None = None,
) -> None:  # fmt: skip
    """Launch a kernel as cuLaunchKernel would.

    Args:
        source, kernel: file of csrc/cuda and name of the kernel in it.
        defines: macros that choose the variant.
        arguments: the kernel's parameters, by value.
        reads, writes: all memory that it may touch (the whole storage of each tensor).
        counts: filled in with what the launch did, if given.

    Raises:
        RuntimeError: the kernel made an invalid access or call; the message says which, and where.
    """
    library = load_kernel(source, kernel, tuple(defines))
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
    triples = [_extent(t, False) for t in reads] + [_extent(t, True) for t in writes]
    buffers = (ctypes.c_size_t * (3 * len(triples)))(*(x for triple in triples for x in triple))
    error = library.emulate(
        (ctypes.c_uint * 3)(*grid), ctypes.c_uint(threads), ctypes.c_uint(shared), pointers, buffers, len(triples),
        ctypes.byref(counts) if counts is not None else None,
    )  # fmt: skip
    if error:
        raise RuntimeError(f"{kernel}: {error.decode()}")


def _extent(tensor: Tensor, writable: bool) -> tuple[int, int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes(), int(writable)
