"""The operator beside what a user would take without this library. Nothing is timed before it agrees."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from gpu_device import Cycle
from gpu_gradients import relative
from gpu_run import Line, Row
from gpu_shapes import GROUP_MAPS, OPTIONS, Bench, Operands, cost, operand_sets, title
from torch import Tensor

from sasa.ops import local_attention
from sasa.speed import spread
from sasa.speed.flex import LEAST_CHANNELS, flex_attention
from sasa.speed.timing import Step, ratios
from sasa.speed.workloads import HEADS, WINDOW, operator_step, unfold_attention

TOLERANCE = 0.03  # relative L2: bfloat16 gives 0.002 to 0.014, another window or no positions far more
PICTURES = 2  # of a batch, that are compared with the reference
FORWARD, BOTH = "forward", "forward + backward"
FLEX, UNFOLD, CONVOLUTION, NATTEN = "FlexAttention, compiled", "unfold", "3 x 3 convolution", "NATTEN"
EQUATION, INTERIOR, ANOTHER = "equation", "interior", "another"


class DiffersError(Exception):
    """A side does not compute what it should: it is not timed."""


@dataclass(frozen=True)
class Contender:
    """A side of the comparison.

    Args:
        function: of the tensors.
        take: which operands it works on, and how they lie in memory.
        padding: of ours beside it: "zeros", or "mask" where it leaves keys beyond the border out.
        positions: whether it, and ours beside it, has relative positions.
        computes: EQUATION (all of it is compared), INTERIOR (only the output away from borders, where it shifts the
            window) or ANOTHER function (nothing is compared).
        note: for the reader.
    """

    function: Callable[..., Tensor]
    take: Callable[[Operands], list[Tensor]]
    padding: str = "zeros"
    positions: bool = True
    computes: str = EQUATION
    note: str | None = None


def all_operands(one: Operands) -> list[Tensor]:
    """q, k, v and both embeddings as they are."""
    return [*one.maps, *one.rels]


def ours_beside(other: Contender) -> Contender:
    """Our operator with the padding and the positions of the other side."""
    function = functools.partial(local_attention, **OPTIONS, padding=other.padding)
    return Contender(function, all_operands if other.positions else lambda one: one.maps)


def flex(bench: Bench, channels: int, side: int) -> Contender:
    """FlexAttention with the same relative logits, compiled anew: torch keeps 8 variants of a function, no more."""
    torch._dynamo.reset()
    narrow = bench.device.cuda and channels // HEADS < LEAST_CHANNELS
    note = 'padding="mask" on both sides' + f"; heads padded to {LEAST_CHANNELS} channels" * narrow
    return Contender(flex_attention(side, bench.device.name), all_operands, "mask", note=note)


def unfold(bench: Bench, channels: int, side: int) -> Contender:
    """F.unfold, einsum, softmax on contiguous maps."""
    return Contender(unfold_attention, lambda one: [tensor.contiguous() for tensor in all_operands(one)])


def convolution(bench: Bench, channels: int, side: int) -> Contender:
    """cuDNN's 3 x 3 convolution of q's shape."""
    weight = torch.randn(channels, channels, 3, 3, device=bench.device.name) / (3 * channels**0.5)
    weight = weight.bfloat16().contiguous(memory_format=torch.channels_last)
    function = functools.partial(F.conv2d, padding=1)
    return Contender(function, lambda one: [one.maps[0], weight], computes=ANOTHER)


def natten(bench: Bench, channels: int, side: int) -> Contender:
    """NATTEN's neighbourhood attention, if it is installed."""
    import natten as library  # pyright: ignore[reportMissingImports]

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (m.permute(0, 2, 3, 1).unflatten(3, (HEADS, -1)) for m in (query, key, value))
        return library.na2d(q, k, v, kernel_size=WINDOW, scale=1.0).flatten(3).permute(0, 3, 1, 2)

    note = "without positions on both sides; shifts windows at borders: only the interior of the output is compared"
    return Contender(attention, lambda one: one.maps, positions=False, computes=INTERIOR, note=note)


CONTENDERS = {FLEX: flex, UNFOLD: unfold, CONVOLUTION: convolution, NATTEN: natten}


def operator(bench: Bench) -> list[Row]:
    """The operator beside compiled FlexAttention with the same positions, unfolding, a convolution and NATTEN."""
    chosen = [name for name in CONTENDERS if not (bench.quick and name in (FLEX, NATTEN))]
    return [
        Row(
            {"map": title(channels, side), "pass": passed, "beside": name},
            functools.partial(beside, bench, channels, side, passed, name),
        )
        for passed in (BOTH, FORWARD)  # what was asked for comes first
        for channels, side in (GROUP_MAPS[2:] if bench.quick else GROUP_MAPS)
        for name in chosen
    ]


def beside(bench: Bench, channels: int, side: int, passed: str, name: str) -> list[Line]:
    """The line of one contender on one map."""
    try:
        other = CONTENDERS[name](bench, channels, side)
    except ImportError as missing:
        return [{"note": f"not installed: {missing}"}]
    sets, backward = operand_sets(bench, channels, side), passed == BOTH
    sides = {"ours": ours_beside(other), name: other}
    found = {one: checked(one, contender, other, sets[0], backward) for one, contender in sides.items()}
    steps: dict[str, Step] = {one: cycle(contender, sets, backward) for one, contender in sides.items()}
    times = bench.device.compare(steps, bench.setting, graphs=True)
    ours, theirs = times["ours"], times[name]
    factor = spread(ratios(theirs.milliseconds, ours.milliseconds))
    how = dict.fromkeys(side.how for side in times.values())
    return [
        {
            "ours, ms": ours.median,
            "ms": theirs.median,
            "times faster": factor.median,
            "from": factor.lower,
            "to": factor.upper,
            "ours, host ms": ours.host,
            "host ms": theirs.host,
            **bench.ceilings.columns(*cost(bench.setting.batch, channels, side, passed), ours.median),
            "ours, GB": bench.device.peak(steps["ours"]),
            "GB": bench.device.peak(steps[name]),
            "ours, error": found["ours"],
            "error": found[name],
            "timed": "; ".join(how),
            "note": other.note,
        }
    ]


def cycle(contender: Contender, sets: list[Operands], backward: bool) -> Cycle:
    """The contender's call on each set, of tensors that nothing else asks gradients of."""
    steps: list[Step] = []
    for one in sets:
        tensors = [tensor.detach().requires_grad_(backward) for tensor in contender.take(one)]
        steps.append(operator_step(contender.function, tensors, one.grad, backward))
    return Cycle(steps)


def checked(name: str, contender: Contender, judged: Contender, one: Operands, backward: bool) -> float | None:
    """The largest error of the contender; None where there is nothing to compare.

    Args:
        name: of the side.
        contender: the side.
        judged: the contender that says what is computed, and how much of it is compared.
        one: the operands.
        backward: gradients too.

    Raises:
        DiffersError: it is not what the reference computes.
    """
    if contender.computes == ANOTHER:
        return None
    shown = Operands(one.maps, one.rels, one.grad.clone())
    shown.grad[PICTURES:] = 0  # so the gradients of the embeddings are of these pictures alone
    got = computed(contender, shown, backward)
    reference = functools.partial(local_attention, **OPTIONS, padding=judged.padding, backend="reference")
    exact = Contender(reference, ours_beside(judged).take)
    few = Operands([m[:PICTURES] for m in one.maps], one.rels, shown.grad[:PICTURES])
    want = computed(exact, few, backward, torch.float64)
    pairs: list[Any] = [(g[:PICTURES] if g.dim() == 4 else g, w) for g, w in zip(got, want, strict=True)]
    if contender.computes == INTERIOR:
        inside = slice(WINDOW // 2, one.grad.shape[2] - WINDOW // 2)
        pairs = [tuple(tensor[:, :, inside, inside] for tensor in pairs[0])]
    worst = max(relative(g, w) for g, w in pairs)
    if not worst <= TOLERANCE:
        raise DiffersError(f"{name} differs from the reference by {worst:.1e}: not timed")
    return worst


def computed(contender: Contender, one: Operands, backward: bool, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The output, and with `backward` the gradient of each tensor."""
    tensors = [tensor.detach().to(dtype or tensor.dtype).requires_grad_(backward) for tensor in contender.take(one)]
    with torch.set_grad_enabled(backward):
        output = contender.function(*tensors)
        grads = torch.autograd.grad(output, tensors, one.grad.to(output.dtype)) if backward else ()
    return [output.detach(), *grads]
