"""Compile the tensor-core kernels of local attention with NVRTC, without a GPU, and list what the assembler says.

    python benchmarks/cuda_compile.py [--arch 80 90 100 120] [--window 7] [--head-dim 8 16] [--json FILE]

Variants are those that the plans of csrc/cuda choose for a large channels_last map. Registers are a thread's, bytes of
spill stores too; shared memory is a block's; occupancy is warps on a multiprocessor over the most that it holds. The
exit status is 1 if anything spills. Needs g++ (for the plans) and the package nvidia-cuda-nvrtc that comes with torch.
"""

import argparse
import ctypes
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import nvidia
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cuda.local_calls import plan_backward, plan_forward  # noqa: E402
from cuda.structs import STORAGE, Launch, LocalBackward, LocalForward, LocalShape, Map  # noqa: E402

# Of a multiprocessor: shared memory, the most of a block, warps (CUDA C++ programming guide, compute capabilities).
LIMITS = {80: (164, 163, 64), 90: (228, 227, 64), 100: (228, 227, 64), 120: (100, 99, 48)}


@dataclass
class Row:
    """One compiled kernel."""

    kernel: str
    window: int
    head_dim: int
    arch: int
    registers: int
    spilled: int  # bytes of spill stores
    shared: int  # bytes
    warps: int  # on a multiprocessor
    occupancy: float
    cubin: int  # bytes
    seconds: float


def load_nvrtc() -> ctypes.CDLL:
    """The library of the installed package nvidia-cuda-nvrtc."""
    folder = next(
        d for root in nvidia.__path__ for d in sorted(Path(root).glob("*/lib")) if any(d.glob("libnvrtc.so*"))
    )
    ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so*"))), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so*"))))


def compile_kernel(nvrtc: ctypes.CDLL, launch: Launch, arch: int) -> tuple[bytes, str]:
    """The machine code, and what ptxas says of it."""
    headers = [ROOT / "csrc" / "kernels.h", *sorted((ROOT / "csrc" / "cuda").glob("*.*h"))]
    names = (ctypes.c_char_p * len(headers))(*(h.name.encode() for h in headers))
    texts = (ctypes.c_char_p * len(headers))(*(h.read_bytes() for h in headers))
    program = ctypes.c_void_p()
    source = f'#include "{launch.source.decode()}"\n'.encode()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernel.cu", len(headers), texts, names)
    options = [f"-arch=sm_{arch}", "-std=c++17", "-default-device", "--ptxas-options=-v"]
    options += [f"-D{name}={value}" for name, value in launch.variant()]
    encoded = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
    log = fetch(nvrtc, program, "ProgramLog").decode(errors="replace")
    if failed:
        raise RuntimeError(log)
    cubin = fetch(nvrtc, program, "CUBIN")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin, log


def fetch(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """The result `what` (ProgramLog, CUBIN) of a compilation."""
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def launches(window: int, head_dim: int, limit: int) -> dict[str, Launch | str]:
    """The launches of both passes on 256 x 56 x 56 with 8 heads, or why there is none."""
    shape = LocalShape(256, 8, head_dim, head_dim, 56, 56, window, False, 1.0, STORAGE[torch.bfloat16])
    channels = 8 * head_dim
    strides = (ctypes.c_int64 * 4)(56 * 56 * 3 * channels, 1, 56 * 3 * channels, 3 * channels)
    maps = {name: Map(1 << 20, strides) for name in "query key value output".split()}
    forward = LocalForward(shape=shape, rel_row=1 << 20, rel_col=1 << 20, pool=1, **maps)
    found: dict[str, Launch | str] = {}
    try:
        found["forward"], _ = plan_forward(forward, limit)
    except ValueError as refusal:
        found["forward"] = str(refusal)
    names = "grad_output query key value grad_query grad_key grad_value".split()
    backward = LocalBackward(shape=shape, rel_row=1 << 20, rel_col=1 << 20, **dict.fromkeys(names, maps["query"]))
    try:
        planned = plan_backward(backward, limit)
        return {**found, "queries": planned.queries, "keys": planned.keys}
    except ValueError as refusal:
        return {**found, "queries": str(refusal), "keys": str(refusal)}


def occupancy(launch: Launch, registers: int, arch: int) -> tuple[int, float]:
    """Warps on a multiprocessor, and over the most that it holds."""
    shared, _, most = LIMITS[arch]
    warps = launch.threads // 32
    by_registers = 65536 // (-(-registers * 32 // 256) * 256) // warps
    by_shared = shared * 1024 // (launch.shared + 1024)
    held = min(by_registers, by_shared, most // warps) * warps
    return held, held / most


def measure(nvrtc: ctypes.CDLL, kernel: str, launch: Launch, window: int, head_dim: int, arch: int) -> Row:
    """Compile one kernel."""
    began = time.perf_counter()
    cubin, log = compile_kernel(nvrtc, launch, arch)
    seconds = time.perf_counter() - began
    found_registers, found_spill = re.search(r"Used (\d+) registers", log), re.search(r"(\d+) bytes spill stores", log)
    assert found_registers is not None, log
    registers, spilled = int(found_registers[1]), int(found_spill[1]) if found_spill else 0
    warps, share = occupancy(launch, registers, arch)
    return Row(
        kernel, window, head_dim, arch, registers, spilled, int(launch.shared), warps, round(share, 2), len(cubin),
        round(seconds, 1),
    )  # fmt: skip


def main() -> None:
    """Parse the arguments, compile, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=sorted(LIMITS), choices=sorted(LIMITS))
    parser.add_argument("--window", type=int, nargs="+", default=[3, 5, 7, 9, 11])
    parser.add_argument("--head-dim", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    nvrtc = load_nvrtc()
    jobs, refused = [], []
    for arch in arguments.arch:
        for window in arguments.window:
            for head_dim in arguments.head_dim:
                for kernel, launch in launches(window, head_dim, LIMITS[arch][1] * 1024).items():
                    if isinstance(launch, str):
                        refused.append(f"{kernel}, k = {window}, heads of {head_dim}, sm_{arch}: {launch}")
                    else:
                        jobs.append((nvrtc, kernel, launch, window, head_dim, arch))
    print("| kernel | k | head | sm | registers | spilled | shared | warps | occupancy | cubin | s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    with ThreadPoolExecutor(2) as pool:
        for row in pool.map(lambda job: measure(*job), jobs):
            rows.append(row)
            print("| " + " | ".join(str(value) for value in asdict(row).values()) + " |", flush=True)
    for line in refused:
        print(f"\nNot on tensor cores: {line}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    sys.exit(any(row.spilled for row in rows))


if __name__ == "__main__":
    main()
