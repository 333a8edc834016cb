"""Compile the GPU kernels ahead of time, without a GPU, and print what the assembler says of each.

    python benchmarks/gpu_compile.py [--arch 80 90] [--dtype bf16] [--only 'local.*'] [--json FILE]

The launch functions of sasa.ops.gpu run on meta tensors of real size; the kernels are replaced by stand-ins that
compile what they are called with, as the first call on a GPU would. From the machine code come registers, shared
memory, bytes spilled to local memory and the tensor-core instructions (HMMA, HGMMA). The exit status is 1 if a fast
path spills more than a few bytes: local attention of 7 x 7 with 8, 16, 32 or 64 channels a head, and the stem.

Another version of Triton, here below a folder of its own, is put in front of the installed one:

    pip install --no-deps --target /tmp/t36 triton==3.6.0
    PYTHONPATH=/tmp/t36 python benchmarks/gpu_compile.py
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # an interpreted kernel has no machine code

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sasa.ops import arguments as calls
from sasa.ops.gpu import block_launch, local_launch

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Bytes a thread that a fast path may spill. Triton 3.6 spills so few in a handful of kernels, and their machine code
# touches them outside the inner loop, once a picture or once a program: what avoids it (smaller steps, fewer blocks on
# a multiprocessor) costs more.
FEW = 40
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass
class Row:
    """One compiled kernel."""

    case: str
    dtype: str
    layout: str
    kernel: str
    arch: str
    fast: bool
    warps: int
    registers: int
    shared: int  # bytes
    spilled: int  # bytes of local memory a thread
    instructions: int
    tensor_core: int | None  # HMMA and HGMMA; None without cuobjdump


class StandIn:
    """`kernel[grid](...)` compiles in place of launching."""

    def __init__(self, kernel, arch: int, report: Callable) -> None:
        self.kernel, self.arch, self.report = kernel, arch, report

    def __getitem__(self, grid):
        return self._compile

    def _compile(self, *arguments, num_warps: int, num_stages: int | None = None, **constants) -> None:
        signature, attributes, fixed = {}, {}, dict(constants)
        parameters = {p.name: p for p in self.kernel.params}
        for index, (name, value) in enumerate(zip(self.kernel.arg_names, arguments, strict=False)):
            special = not parameters[name].do_not_specialize
            signature[name] = kind_of(value, special)
            if signature[name] == "constexpr":
                fixed[name] = value
            elif isinstance(value, torch.Tensor) or (special and isinstance(value, int) and value % 16 == 0):
                attributes[(index,)] = [["tt.divisibility", 16]]
        signature |= dict.fromkeys(constants, "constexpr")
        options = {"num_warps": num_warps} | ({} if num_stages is None else {"num_stages": num_stages})
        source = ASTSource(self.kernel, signature, fixed, attributes)
        self.report(triton.compile(source, target=GPUTarget("cuda", self.arch, 32), options=options), num_warps)


def kind_of(value: object, special: bool) -> str:
    """The type of an argument in a signature, as Triton's own launch would find it."""
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    if value is None or (special and isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int)
    return "i32" if -(2**31) <= value < 2**31 else "i64"


@contextmanager
def compiling(module, names: tuple[str, ...], arch: int, report: Callable) -> Iterator[None]:
    """The module's kernels replaced by stand-ins."""
    originals = {name: getattr(module, name) for name in names}
    try:
        for name, kernel in originals.items():
            setattr(module, name, StandIn(kernel, arch, report))
        yield
    finally:
        for name, kernel in originals.items():
            setattr(module, name, kernel)


def local_attention(head_dim: int, dtype: torch.dtype, layout: torch.memory_format, arch: int, report) -> None:
    """Forward and backward of 8 heads on a 56 x 56 map, q, k and v being chunks of one projection."""
    local_launch.ARCHITECTURE = arch  # which tiling to take where there is no device
    qkv = torch.empty(64, 24 * head_dim, 56, 56, dtype=dtype, device="meta").contiguous(memory_format=layout)
    query, key, value = qkv.chunk(3, dim=1)
    rel = torch.empty(8, 7, head_dim // 2, dtype=dtype, device="meta")
    with compiling(local_launch, ("local_forward", "local_queries", "local_keys"), arch, report):
        inputs, options = calls.LocalInputs(query, key, value, rel, rel), calls.LocalOptions(7, 8, "zeros", 1.0)
        output, logsumexp = local_launch.forward(calls.LocalForward(inputs, options))
        local_launch.backward(calls.LocalBackward(output, inputs, logsumexp, options))


def stem(image_gradient: bool, values: str, dtype: torch.dtype, layout: torch.memory_format, arch: int, report) -> None:
    """Forward and backward of the stem: 4 heads of 16 channels in blocks of 4 x 4 of a 224 x 224 picture."""
    image = torch.empty(256, 3, 224, 224, dtype=dtype, device="meta").contiguous(memory_format=layout)
    weight = torch.empty(64, 3, dtype=dtype, device="meta")
    w_value = torch.empty(16, 64, 3, dtype=dtype, device="meta") if values == "weights" else None
    value = None
    if values == "map":
        value = torch.empty(256, 64, 224, 224, dtype=dtype, device="meta").contiguous(memory_format=layout)
    rel = torch.empty(4, 7, 8, dtype=dtype, device="meta")
    inputs = calls.BlockInputs(image, weight, weight, w_value, rel, rel, value)
    options = calls.BlockOptions(4, 4, 1.0)
    with compiling(block_launch, ("block_forward", "block_backward"), arch, report):
        output, logsumexp = block_launch.forward(calls.BlockForward(inputs, options))
        block_launch.backward(calls.BlockBackward(output, inputs, logsumexp, options, image_gradient))


# What is compiled: a name, whether it is a fast path, and the function of (dtype, layout, arch, report).
CASES: list[tuple[str, bool, Callable]] = [
    *((f"local, {d} channels a head", True, lambda *a, d=d: local_attention(d, *a)) for d in (8, 16, 32, 64)),
    ("local, 128 channels a head", False, lambda *a: local_attention(128, *a)),
    ("stem", True, lambda *a: stem(False, "weights", *a)),
    ("stem, values as a map", False, lambda *a: stem(False, "map", *a)),
    ("stem, gradient of the picture", False, lambda *a: stem(True, "weights", *a)),
]


def tool(name: str) -> Path | None:
    """A program that Triton brings along."""
    path = TOOLS / name
    return path if path.is_file() else None


def read_machine_code(cubin: bytes, shared: int) -> dict:
    """Registers, spills and instructions of a kernel, from cuobjdump."""
    program = tool("cuobjdump")
    if program is None:
        raise SystemExit(f"cuobjdump is not in {TOOLS}: this installation of Triton cannot tell")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, code = (
            subprocess.run([program, flag, path], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    names = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", code, re.MULTILINE)
    return {
        "registers": registers,
        "shared": shared,
        "spilled": stack + local,
        "instructions": sum(name != "NOP" for name in names),
        "tensor_core": sum(name in ("HMMA", "HGMMA") for name in names) if names else None,
    }


def compile_all(architectures: list[int], dtypes: list[str], only: str) -> Iterator[Row]:
    """Every case whose name matches `only`, in every dtype and layout on every architecture."""
    for case, fast, run in CASES:
        if not re.fullmatch(only, case):
            continue
        for arch in architectures:
            for dtype in (dtype for dtype, name in TYPES.items() if name in dtypes):
                for layout_name, layout in LAYOUTS.items():
                    found: list[Row] = []
                    words = (case, TYPES[dtype], layout_name)

                    def report(compiled, warps, found=found, words=words, arch=arch, fast=fast):
                        facts = read_machine_code(compiled.asm["cubin"], compiled.metadata.shared)
                        found.append(Row(*words, compiled.metadata.name, f"sm_{arch}", fast, warps, **facts))

                    run(dtype, layout, arch, report)
                    yield from found


HEADER = ("case", "dtype", "layout", "kernel", "arch", "warps", "registers", "shared memory", "spilled", "tensor core",
          "instructions")  # fmt: skip


def cells(row: Row) -> tuple:
    """A row of the table."""
    tensor_core = "?" if row.tensor_core is None else row.tensor_core
    return (row.case, row.dtype, row.layout, row.kernel, row.arch, row.warps, row.registers, row.shared,
            row.spilled, tensor_core, row.instructions)  # fmt: skip


def main() -> int:
    """Print the table as it grows; 1 if a fast path spills more than a few bytes."""
    parser = argparse.ArgumentParser(description="Registers, memory and spills of the GPU kernels; needs no GPU.")
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], help="compute capabilities (default 80 90)")
    parser.add_argument(
        "--dtype", nargs="+", default=list(TYPES.values()), choices=TYPES.values(), help="(default all)"
    )
    parser.add_argument("--only", default=".*", help="a regular expression for the names of cases (default all)")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"Triton {triton.__version__}, torch {torch.__version__}\n")
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    rows = []
    for row in compile_all(arguments.arch, arguments.dtype, arguments.only):
        rows.append(row)
        print("| " + " | ".join(map(str, cells(row))) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    spilled = [row.spilled for row in rows if row.fast and row.spilled]
    most = max(spilled, default=0)
    print(f"\n{len(rows)} kernels; {len(spilled)} on a fast path spill, at most {most} bytes a thread.")
    return 1 if most > FEW else 0


if __name__ == "__main__":
    sys.exit(main())
