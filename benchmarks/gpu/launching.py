"""What it costs the host to launch a layer from Python: tiny maps, calls that are not waited for."""

import torch
from torch import Tensor

import sasa
from benchmarks.gpu.rows import Bench, Row, Values
from benchmarks.gpu.shapes import HEADS, WINDOW, Layer, operands
from benchmarks.gpu.timing import host_milliseconds
from sasa.ops import local_attention

LAYER = Layer(64, 7, 1)


def rows(backend: str) -> list[Row]:
    """One row."""
    return [Row(f"launching, {backend}", launching, backend)]


def launching(bench: Bench) -> Values:
    """Milliseconds until a call has returned: an addition, the operator, the layer; forward, and with backward."""
    inputs, grad_output = operands(LAYER, 1, bench.device)
    given = [t.detach() for t in inputs if t is not None]
    leaves = [t.detach().requires_grad_() for t in given]
    layer = sasa.LocalAttention2d(64, 64, WINDOW, num_heads=HEADS).to(bench.device, torch.bfloat16)
    parameters = list(layer.parameters())

    def operator(tensors: list[Tensor]) -> Tensor:
        return local_attention(*tensors, kernel_size=WINDOW, num_heads=HEADS)  # pyright: ignore[reportArgumentType]

    def inference() -> None:
        with torch.inference_mode():
            layer(grad_output)

    steps = {
        "addition": lambda: torch.add(grad_output, grad_output),
        "operator": lambda: operator(given),
        "operator with backward": lambda: torch.autograd.grad(operator(leaves), leaves, grad_output),
        "layer, inference": inference,
        "layer with backward": lambda: torch.autograd.grad(layer(grad_output), parameters, grad_output),
    }
    return {f"{name}, ms": host_milliseconds(step) for name, step in steps.items()}
