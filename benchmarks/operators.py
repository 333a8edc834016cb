"""The eager operator against windows by F.unfold, interleaved in one run: ms an image and the ratio of medians.

    python benchmarks/operators.py

Baseline, fixed: F.unfold of keys and values, einsum, softmax, contiguous NCHW float32, same threads, batch 8.
"""

import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from sasa.ops import local_attention

BATCH, HEADS, WINDOW, ROUNDS = 8, 8, 7, 5
SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, side: the four groups of ResNet-50 at 224 x 224


def unfold_attention(query: Tensor, key: Tensor, value: Tensor, rel_row: Tensor, rel_col: Tensor) -> Tensor:
    """Eq. 3 over unfolded windows: memory and traffic are 49 times the map."""
    batch, channels, height, width = query.shape
    head_dim = channels // HEADS
    keys, values = (
        F.unfold(m, WINDOW, padding=WINDOW // 2).view(batch, HEADS, head_dim, WINDOW**2, height * width)
        for m in (key, value)
    )
    rows = rel_row[:, :, None].expand(-1, WINDOW, WINDOW, -1)
    cols = rel_col[:, None].expand(-1, WINDOW, WINDOW, -1)
    relative = torch.cat([rows, cols], -1).reshape(HEADS, WINDOW**2, head_dim)
    query = query.reshape(batch, HEADS, head_dim, height * width)
    logits = torch.einsum("bndp,bndkp->bnkp", query, keys) + torch.einsum("bndp,nkd->bnkp", query, relative)
    output = torch.einsum("bnkp,bndkp->bndp", logits.softmax(2), values)
    return output.reshape(batch, channels, height, width)


def tiled_attention(query: Tensor, key: Tensor, value: Tensor, rel_row: Tensor, rel_col: Tensor) -> Tensor:
    """The same by the eager back-end."""
    return local_attention(query, key, value, rel_row, rel_col, kernel_size=WINDOW, num_heads=HEADS, backend="eager")


def milliseconds(function, inputs: list[Tensor], backward: bool) -> float:
    """One call, ms an image."""
    began = time.perf_counter()
    with torch.set_grad_enabled(backward):
        output = function(*inputs)
        if backward:
            torch.autograd.grad(output.sum(), inputs)
    return 1000 * (time.perf_counter() - began) / BATCH


def main() -> None:
    """Print one row for each shape and direction."""
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ms an image, medians of {ROUNDS}\n")
    print("| map | pass | unfold | eager | ratio |\n|---|---|---:|---:|---:|")
    for channels, side in SHAPES:
        maps = [torch.randn(BATCH, channels, side, side, requires_grad=True) for _ in range(3)]
        rels = [torch.randn(HEADS, WINDOW, channels // HEADS // 2, requires_grad=True) for _ in range(2)]
        torch.testing.assert_close(
            unfold_attention(*maps, *rels), tiled_attention(*maps, *rels), rtol=1e-3, atol=1e-3
        )  # both compute the same
        for backward in (False, True):
            times: dict[str, list[float]] = {"unfold": [], "eager": []}
            for _ in range(ROUNDS):
                times["unfold"].append(milliseconds(unfold_attention, [*maps, *rels], backward))
                times["eager"].append(milliseconds(tiled_attention, [*maps, *rels], backward))
            unfold, eager = (statistics.median(times[name]) for name in ("unfold", "eager"))
            name = "forward + backward" if backward else "forward"
            print(f"| {side} x {side} x {channels} | {name} | {unfold:.2f} | {eager:.2f} | {unfold / eager:.1f} |")


if __name__ == "__main__":
    main()
