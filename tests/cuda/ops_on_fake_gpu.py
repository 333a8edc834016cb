"""Run by test_ops.py in a process that sees fake GPUs: operators on CUDA tensors, whose kernels run in emulation.

    python ops_on_fake_gpu.py BACKEND CASE DTYPE DEVICE   prints the relative errors of results and gradients, as JSON
    python ops_on_fake_gpu.py pytest ARGUMENT ...         runs tests of tests/gpu

torch's own kernels do not run here, so that nothing but allocations, copies and our kernels may touch the tensors.
"""

import ctypes
import json
import os
import sys
import threading

import pytest
import torch
import torch._dynamo
from torch import Tensor

import sasa
import sasa.ops
from cuda import emulator, fake_gpu
from sasa.ops import eager, eager_windows
from sasa.ops.arguments import (
    BlockInputs,
    BlockOptions,
    Epilogue,
    LocalForward,
    LocalInputs,
    QkvInputs,
    QkvOptions,
)
from sasa.ops.block_pooled import block_attention_pooled
from sasa.ops.qkv_attention import qkv_attention, qkv_attention_inference

BUILDER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)
files: list[ctypes.Array] = []  # the fake driver reads their memory


@BUILDER
def build(module: bytes, kernel: bytes) -> int:
    """The shared object that emulates a kernel of a module of the fake NVRTC: "emulated SOURCE NAME=VALUE..."."""
    _, source, *defines = module.decode().split()
    pairs = tuple((name, int(value)) for name, value in (define.split("=") for define in defines))
    files.append(ctypes.create_string_buffer(emulator.load_kernel(source, kernel.decode(), pairs)._name.encode()))
    return ctypes.addressof(files[-1])


QKV = QkvOptions(kernel_size=3, num_heads=2, content=True, padding="zeros", scale=0.5)


def install_builder() -> None:
    """Let the fake driver call `build` when a kernel is loaded."""
    ctypes.CDLL(str(fake_gpu.driver())).fake_cuda_set_builder(build)


def relative_error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().cpu().double(), expected.detach().double()
    return ((got - expected).norm() / expected.norm()).item()


def compare(function, tensors: dict[str, Tensor | None], device: str, **differences) -> dict[str, float]:
    """Errors of the results of `function` on the device, and of the gradients, against float64 on the CPU."""
    torch.manual_seed(1)
    wide = {n: None if t is None else t.double().requires_grad_(t.is_floating_point()) for n, t in tensors.items()}
    there = {n: None if t is None else t.to(device).requires_grad_(t.is_floating_point()) for n, t in tensors.items()}
    expected, got = function("reference", **wide), function(differences.get("backend", "auto"), **there)
    errors = {f"result {i}": relative_error(*pair) for i, pair in enumerate(zip(got, expected, strict=True))}
    if not all(result.requires_grad for result in got):
        return errors
    grads = [torch.empty_like(result, device="cpu").normal_() for result in got]
    names = [n for n, t in wide.items() if t is not None and t.requires_grad]
    right = torch.autograd.grad(expected, [wide[n] for n in names], [g.double() for g in grads], allow_unused=True)
    mine = torch.autograd.grad(got, [there[n] for n in names], [g.to(device) for g in grads], allow_unused=True)
    return errors | {n: relative_error(a, b) for n, a, b in zip(names, mine, right, strict=True) if b is not None}


def maps(dtype: torch.dtype, channels: int, height: int, width: int, count: int = 1, channels_last: bool = True):
    """(2, channels, height, width) maps of noise, of the rounded values that the dtype holds."""
    torch.manual_seed(0)
    drawn = [(0.7 * torch.randn(2, channels, height, width)).to(dtype) for _ in range(count)]
    return [m.to(memory_format=torch.channels_last) for m in drawn] if channels_last else drawn


def tables(heads: int, kernel_size: int, half: int) -> list[Tensor]:
    torch.manual_seed(2)
    return [0.7 * torch.randn(heads, kernel_size, half) for _ in range(2)]


def local(dtype: torch.dtype, device: str, backend: str, head_dim: int, channels_last: bool = True) -> dict[str, float]:
    query, key, value = maps(dtype, 2 * head_dim, 9, 11, 3, channels_last)
    rel_row, rel_col = tables(2, 3, head_dim // 2)

    def function(backend, **tensors):
        options = {"kernel_size": 3, "num_heads": 2, "scale": 0.5}
        return (sasa.ops.local_attention(**tensors, **options, backend=backend),)

    given = {"query": query, "key": key, "value": value, "rel_row": rel_row, "rel_col": rel_col}
    return compare(function, given, device, backend=backend)


def qkv(dtype: torch.dtype, device: str, _backend: str) -> dict[str, float]:
    (stacked,) = maps(dtype, 3 * 32, 9, 11)
    rel_row, rel_col = tables(2, 3, 8)

    def function(backend, **tensors):
        return (qkv_attention(QkvInputs(**tensors), QKV, backend),)

    return compare(function, {"qkv": stacked, "rel_row": rel_row, "rel_col": rel_col}, device)


def inference(dtype: torch.dtype, device: str, _backend: str) -> dict[str, float]:
    (stacked,) = maps(dtype, 3 * 32, 9, 11)
    rel_row, rel_col = tables(2, 3, 8)
    gain, shift = torch.randn(32), torch.randn(32)

    def function(*tensors: Tensor) -> Tensor:
        return qkv_attention_inference(QkvInputs(*tensors[:3]), Epilogue(*tensors[3:], relu=True, pool=2), QKV)

    given = (stacked, rel_row, rel_col, gain, shift)
    with torch.no_grad():
        got = function(*(t.to(device) for t in given))
        return {"output": relative_error(got, function(*(t.double() for t in given)))}


def block_tensors(dtype: torch.dtype) -> dict[str, Tensor | None]:
    (image,) = maps(dtype, 3, 9, 10)
    torch.manual_seed(3)
    w_query, w_key = (0.7 * torch.randn(2, 8, 3)).to(dtype)
    w_value = (0.7 * torch.randn(16, 8, 3)).to(dtype)
    rel_row, rel_col = tables(2, 7, 2)
    return {
        "image": image,
        "w_query": w_query,
        "w_key": w_key,
        "w_value": w_value,
        "rel_row": rel_row,
        "rel_col": rel_col,
    }


def block(dtype: torch.dtype, device: str, backend: str) -> dict[str, float]:
    def function(backend, **tensors):
        return (sasa.ops.block_attention(**tensors, block_size=4, num_heads=2, backend=backend),)

    return compare(function, block_tensors(dtype), device, backend=backend)


def pooled(dtype: torch.dtype, device: str, _backend: str) -> dict[str, float]:
    """The reference is the CPU's operator, in float64."""
    sign = torch.tensor([1.0, -1.0] * 4)

    def function(_, **tensors):
        image = tensors["image"]
        given = BlockInputs(**{"value": None, **tensors})
        return block_attention_pooled(given, sign.to(image.device), BlockOptions(4, 2, 1.0))

    return compare(function, block_tensors(dtype), device)


def stem(dtype: torch.dtype, device: str, _backend: str) -> dict[str, float]:
    """The stem of a ResNet in training: float32 weights beside the image's dtype, which needs no gradient."""
    (image,) = maps(dtype, 3, 9, 10)
    torch.manual_seed(3)
    w_query, w_key, w_value = torch.randn(32, 3), torch.randn(32, 3), torch.randn(16, 32, 3)
    rel_row, rel_col = tables(2, 7, 8)
    sign = torch.tensor([1.0, -1.0] * 16)

    def function(backend, **weights):
        pixels = image.double() if backend == "reference" else image.to(device)
        given = (pixels, *weights.values(), None, sign.to(pixels.device))
        extreme, _, sums = torch.ops.sasa.block_attention_pooled(*given, 4, 2, 0.3)
        return extreme, sums

    weights = {"w_query": w_query, "w_key": w_key, "w_value": w_value, "rel_row": rel_row, "rel_col": rel_col}
    return compare(function, weights, device)


def not_taken(dtype: torch.dtype, device: str, _backend: str) -> dict[str, float]:
    """A call that no kernel supports runs in plain torch, here on the CPU: forward only."""
    on_gpu, are_needed = [], eager_windows.are_needed

    def forward(call: LocalForward) -> tuple[Tensor, ...]:
        eager_windows.are_needed = are_needed
        on_gpu.append(all(t.device.type == "cuda" for t in call.inputs if t is not None))
        here = LocalInputs(*(None if t is None else t.cpu() for t in call.inputs))
        return tuple(t.to(device) for t in eager.forward(LocalForward(here, call.options)))

    eager_windows.are_needed, eager_windows.forward = lambda *_: True, forward  # what `eager.forward` calls first
    query, key, value = maps(dtype, 32, 9, 11, 3)
    got = sasa.ops.local_attention(*(t.to(device) for t in (query, key, value)), kernel_size=3, num_heads=2)
    assert on_gpu == [True]
    want = sasa.ops.local_attention(
        *(t.double() for t in (query, key, value)), kernel_size=3, num_heads=2, backend="reference"
    )
    return {"output": relative_error(got, want)}


class Attend(torch.nn.Module):
    """The operator as a module, without a projection, which would be one of torch's kernels."""

    def forward(self, qkv: Tensor, rel_row: Tensor, rel_col: Tensor) -> Tensor:
        """Attention with two heads and k = 3."""
        return qkv_attention(QkvInputs(qkv, rel_row, rel_col), QKV)


def compiled(dtype: torch.dtype, device: str, _backend: str) -> dict[str, float]:
    """torch.compile in one graph, with gradients."""
    run = torch.compile(Attend(), fullgraph=True, backend="aot_eager")

    def function(backend: str, **tensors: Tensor) -> tuple[Tensor]:
        return (qkv_attention(QkvInputs(**tensors), QKV, backend) if backend == "reference" else run(**tensors),)

    rel_row, rel_col = tables(2, 3, 8)
    return compare(function, {"qkv": maps(dtype, 96, 9, 11)[0], "rel_row": rel_row, "rel_col": rel_col}, device)


def exported(dtype: torch.dtype, device: str, _backend: str) -> dict[str, float]:
    """torch.export, without gradients."""
    inputs = (maps(dtype, 96, 9, 11)[0], *tables(2, 3, 8))
    there = tuple(t.to(device) for t in inputs)
    with torch.no_grad():
        got = torch.export.export(Attend(), there).module()(*there)
    return {"output": relative_error(got, qkv_attention(QkvInputs(*(t.double() for t in inputs)), QKV, "reference"))}


def layers(dtype: torch.dtype, device: str, _backend: str) -> dict[str, float]:
    """The fused operators are in one graph of torch.compile; it is not run, since it contains torch's own kernels."""
    operators: list[str] = []

    def keep(graph: torch.fx.GraphModule, _inputs: object) -> None:
        names = (str(node.target).removesuffix(".default") for node in graph.graph.nodes)
        operators.extend(name for name in names if name.startswith("sasa."))
        raise NotImplementedError("this graph is only looked at")

    for module in (sasa.AttentionStem(3, 64), sasa.LocalAttention2d(3, 32, stride=2, num_heads=2)):
        image = torch.zeros(2, 3, 16, 16, dtype=dtype).to(device)
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="only looked at"), torch.no_grad():
            torch.compile(module.to(device, dtype), fullgraph=True, backend=keep)(image)
    assert operators == ["sasa.block_attention_pooled", "sasa.qkv_attention_inference"]
    return {}


def threads(dtype: torch.dtype, _device: str, backend: str) -> dict[str, float]:
    """Four threads on two GPUs, each on a stream of its own; the largest error of each."""
    errors: dict[str, float] = {}

    def work(index: int) -> None:
        device = f"cuda:{index % 2}"
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream()):
            errors[f"thread {index}"] = max(local(dtype, device, backend, head_dim=16).values())

    running = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert torch.cuda.current_device() == 0
    return errors


CASES = {
    "local": local,
    "qkv": qkv,
    "inference": inference,
    "block": block,
    "pooled": pooled,
    "stem": stem,
    "not_taken": not_taken,
    "compiled": compiled,
    "exported": exported,
    "layers": layers,
    "threads": threads,
}


def main(backend: str, case: str, dtype: str, device: str, *words: str) -> int:
    options = {name: int(value) for name, value in (word.split("=") for word in words)}
    print(json.dumps(CASES[case](getattr(torch, dtype), device, backend, **options)), flush=True)
    return 0


if __name__ == "__main__":
    install_builder()
    if sys.argv[1] == "pytest":
        status = pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[2:]])
    else:
        status = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # torch's autograd threads may still free tensors, which crashes a Python that is shutting down
