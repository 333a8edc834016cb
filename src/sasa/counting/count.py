"""`sasa.count`: parameters and FLOPS of any network, counted by running it without computing anything.

A copy of the network runs on torch's meta device, where tensors have shapes and no memory; torch's FlopCounterMode
adds up formulas of the operators that it calls, in three conventions at once.
"""

import copy
import functools
from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sasa.counting.conventions import CALIBRATED, SIMPLE, mixture_extra_flops
from sasa.errors import ArgumentError
from sasa.nn import AttentionStem, LocalAttention2d
from sasa.ops.flops import pixels

InputSize = int | tuple[int, int] | tuple[int, int, int]


@dataclass(frozen=True)
class Cost:
    """What a network, or a module of it, costs for one image.

    Args:
        parameters: numbers to learn; shared ones count once.
        flops: the products that are computed, 2 for each multiply-add, q.r factorised; nothing element-wise.
        flops_simple: in the paper's units, convention "simple" (sasa/counting/conventions.py).
        flops_calibrated: in the paper's units, convention "calibrated", which counts element-wise operations too.
    """

    parameters: int
    flops: int
    flops_simple: int
    flops_calibrated: int

    @property
    def macs(self) -> int:
        """Multiply-adds that are computed: half of `flops`."""
        return self.flops // 2


@dataclass(frozen=True)
class Count(Cost):
    """The cost of a whole network for one image of `input_size` (C, H, W).

    `by_module` has the cost of every module that ran, by its name in the network ("layer1.0.spatial").
    """

    input_size: tuple[int, int, int]
    by_module: dict[str, Cost] = field(repr=False)


def count(model: nn.Module, input_size: InputSize) -> Count:
    """Parameters and FLOPS of a network for one image, in evaluation mode; the model itself is left as it is.

    Args:
        model: any module that takes one batch of images (1, C, H, W), on any device.
        input_size: side of a square image, (H, W), or (C, H, W), in pixels. C where it is not given is what the
            first module with `in_channels` takes, or 3.

    Returns:
        `Count`: parameters, flops (what is computed, 2 for each multiply-add), macs, flops_simple and
        flops_calibrated (the two conventions that fit the paper's tables), by_module.

    Raises:
        ArgumentError: (a ValueError) an input_size of another form.

    >>> cost = sasa.count(sasa.create_model("sasa_resnet50"), 224)
    >>> f"{cost.parameters / 1e6:.1f} M, {cost.flops_calibrated / 1e9:.1f} B"
    '18.0 M, 7.2 B'
    """
    size = image_size(model, input_size)
    model = on_meta(model)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    true, simple, calibrated = (FlopCounterMode(display=False, custom_mapping=m) for m in ({}, SIMPLE, CALIBRATED))
    with torch.no_grad(), torch.device("meta"):
        stems = _Stems(model)
        with true, simple, calibrated:
            model(torch.empty(1, *size, dtype=dtype))
    counted = (
        _by_module(true, model, stems.flops),
        _by_module(simple, model, stems.simple),
        _by_module(calibrated, model, stems.calibrated),
    )
    by_module = {
        name: Cost(_parameters(module), *(flops.get(name, 0) for flops in counted))
        for name, module in model.named_modules(remove_duplicate=False)
        if any(name in flops for flops in counted)
    }
    total = by_module.pop("")
    return Count(total.parameters, total.flops, total.flops_simple, total.flops_calibrated, size, by_module)


def image_size(model: nn.Module, input_size: InputSize) -> tuple[int, int, int]:
    """(C, H, W) from what `count` takes."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) not in (2, 3) or not all(isinstance(side, int) and side > 0 for side in size):
        raise ArgumentError(f"input_size must be a side, (H, W) or (C, H, W) in pixels, got {input_size!r}")
    channels = (getattr(module, "in_channels", None) for module in model.modules())
    taken = next((found for found in channels if isinstance(found, int)), 3)
    return size[0] if len(size) == 3 else taken, size[-2], size[-1]


def on_meta(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose tensors have no memory; its attention takes the dispatcher ops.

    Nothing is copied that is large: the copier is told beforehand what stands for each tensor.
    """
    memo: dict[int, Tensor] = {}
    for module in model.modules():
        own = [value for value in vars(module).values() if isinstance(value, Tensor)]
        for tensor in (*module.buffers(recurse=False), *own):
            memo[id(tensor)] = torch.empty_like(tensor, device="meta")
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    model = copy.deepcopy(model, memo).eval()
    for module in model.modules():
        if isinstance(module, LocalAttention2d | AttentionStem):
            module.backend = "auto"  # a back-end asked for by name runs without the op that has a formula
    return model


class _Stems:
    """What to add to the count of each attention stem, by its name: the paper's stem and ours differ in work.

    - Values. The paper's stem applies M value matrices to every pixel and then mixes M values (Eq. 8 read literally),
      and its FLOPS are counted so. Ours mixes the matrices once, for p depends on nothing but the position in the
      block, and applies one matrix a pixel, which is what the op's formulas count. `simple` and `calibrated` get the
      rest while the model runs. The mixing of matrices is ours alone: it runs here, before the counters start, and is
      charged to the true count only (`flops`).
    - ReLU. After batch norm, as after a convolution, it has a map of full resolution. Ours runs behind the max pool,
      which changes nothing in the result and leaves 1 / S**2 of the work. `calibrated`, the only one that counts
      ReLU, gets the difference.
    """

    def __init__(self, model: nn.Module) -> None:
        self.flops: dict[str, int] = defaultdict(int)
        self.simple: dict[str, int] = defaultdict(int)
        self.calibrated: dict[str, int] = defaultdict(int)
        for name, stem in model.named_modules():
            if isinstance(stem, AttentionStem):
                self._mix(name, stem)
                stem.register_forward_hook(functools.partial(self._charge, name))  # pyright: ignore

    def _mix(self, name: str, stem: AttentionStem) -> None:
        with FlopCounterMode(display=False) as mode:
            mixed = stem.mixed_values()
        self.flops[name] += mode.get_total_flops()
        stem.mixed_values = lambda: mixed

    def _charge(self, name: str, stem: AttentionStem, images: tuple[Tensor], output: Tensor) -> None:
        (image,) = images
        values = mixture_extra_flops(image, stem.out_channels, stem.num_mixtures) if stem.values == "mixture" else 0
        relu = stem.activation * (pixels(image) * stem.out_channels - output.numel())
        self.simple[name] += values
        self.calibrated[name] += values + relu


def _by_module(mode: FlopCounterMode, model: nn.Module, corrections: dict[str, int]) -> dict[str, int]:
    """FLOPS by name of module, "" for the whole, from torch's names, which start with the model's class."""
    root = type(model).__name__
    flops = {
        name.removeprefix(root).removeprefix("."): sum(by_op.values())
        for name, by_op in mode.get_flop_counts().items()
        if name.startswith(root + ".")
    }
    flops[""] = mode.get_total_flops()
    for name, extra in corrections.items():
        parts = name.split(".") if name else []
        for ancestor in (".".join(parts[:depth]) for depth in range(len(parts) + 1)):
            flops[ancestor] = flops.get(ancestor, 0) + extra
    return flops


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
