"""Compile the three kernels of local attention for the architecture in argv[1], as the first call on a GPU would.

The launch itself runs on CPU tensors; what it would hand to Triton is compiled in place of being run.
"""

import sys
import warnings

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sasa.ops.gpu import local_launch

POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


class Compiled:
    """Stands where a kernel stands: kernel[grid](...) compiles."""

    def __init__(self, kernel, architecture: int, report):
        self.kernel, self.architecture, self.report = kernel, architecture, report

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *arguments, num_warps, num_stages, **constants):
        signature, attributes = {}, {}
        for index, (name, value) in enumerate(zip(self.kernel.arg_names, arguments, strict=False)):
            is_size = name in self.kernel.do_not_specialize
            signature[name] = "i32" if is_size else _type(value)
            if signature[name] == "constexpr":
                constants[name] = value
            elif not is_size and not isinstance(value, float) and (isinstance(value, torch.Tensor) or value % 16 == 0):
                attributes[(index,)] = [["tt.divisibility", 16]]
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(self.kernel, signature, constants, attributes)
        options = {"num_warps": num_warps, "num_stages": num_stages}
        self.report(triton.compile(source, target=GPUTarget("cuda", self.architecture, 32), options=options))


def _type(value) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if value is None or (isinstance(value, int) and value == 1):
        return "constexpr"
    return "fp32" if isinstance(value, float) else "i32"


def compile_all(architecture: int, report, *, head_dim=8, size=8, kernel_size=7, dtype=torch.bfloat16, padding="zeros"):
    """Compile what a forward and a backward of such maps, channels last, would run; `report` gets each result."""
    kernels = ("local_forward", "local_queries", "local_keys")
    originals = {name: getattr(local_launch, name) for name in kernels}
    local_launch.ARCHITECTURE = architecture
    try:
        for name, kernel in originals.items():
            setattr(local_launch, name, Compiled(kernel, architecture, report))
        qkv = torch.zeros(1, 3 * 8 * head_dim, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
        query, key, value = qkv.chunk(3, dim=1)
        rel = torch.zeros(8, kernel_size, head_dim // 2)
        options = (kernel_size, 8, padding, 1.0)
        output, logsumexp = local_launch.forward(query, key, value, rel, rel, *options)
        local_launch.backward(output, query, key, value, rel, rel, logsumexp, *options)
    finally:
        for name, kernel in originals.items():
            setattr(local_launch, name, kernel)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    compile_all(int(sys.argv[1]), lambda compiled: print(compiled.metadata.name, flush=True))
