"""`sasa.count`: parameters and FLOPs of any network.

A copy of the network runs on torch's meta device, where tensors have a shape but no memory. Three FlopCounterModes of
torch, one for each convention, add up the formulas of the operators that it calls.
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
from sasa.nn.conversion import count_parameters
from sasa.ops.flops import pixels

InputSize = int | tuple[int, int] | tuple[int, int, int]


@dataclass(frozen=True)
class Cost:
    """Cost of a network, or of one of its modules, for one image.

    Args:
        parameters: number of parameters; shared ones count once.
        flops: of the products that are computed, 2 for each multiply-add; without element-wise operations.
        flops_simple: in the paper's convention "simple" (sasa/counting/conventions.py).
        flops_calibrated: in the paper's convention "calibrated", which includes element-wise operations.
    """

    parameters: int
    flops: int
    flops_simple: int
    flops_calibrated: int

    @property
    def macs(self) -> int:
        """Multiply-adds: half of `flops`."""
        return self.flops // 2


@dataclass(frozen=True)
class Count(Cost):
    """Cost of a whole network for one image.

    Args:
        input_size: (C, H, W) of the image.
        by_module: cost of every module that ran, by its name ("layer1.0.spatial").
    """

    input_size: tuple[int, int, int]
    by_module: dict[str, Cost] = field(repr=False)


def count(model: nn.Module, input_size: InputSize) -> Count:
    """Count parameters and FLOPs of a network for one image, in evaluation mode. The model is not changed.

    Args:
        model: any module that takes a batch of images (1, C, H, W), on any device.
        input_size: side of a square image, (H, W), or (C, H, W), in pixels. By default C is the `in_channels` of the
            first module that has it, or 3.

    Returns:
        `Count`: parameters, flops (2 for each multiply-add), macs, flops_simple and flops_calibrated (the two
        conventions that fit the paper's tables), by_module.

    Raises:
        ArgumentError: (a ValueError) input_size has another form.

    >>> cost = sasa.count(sasa.create_model("sasa_resnet50"), 224)
    >>> f"{cost.parameters / 1e6:.1f} M, {cost.flops_calibrated / 1e9:.1f} B"
    '18.0 M, 7.2 B'
    """
    size = image_size(model, input_size)
    model = on_meta(model)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    true, simple, calibrated = (FlopCounterMode(display=False, custom_mapping=m) for m in ({}, SIMPLE, CALIBRATED))
    with torch.no_grad(), torch.device("meta"):
        stems = _StemCorrections(model)
        with true, simple, calibrated:
            model(torch.empty(1, *size, dtype=dtype))
    counted = (
        _by_module(true, model, stems.flops),
        _by_module(simple, model, stems.simple),
        _by_module(calibrated, model, stems.calibrated),
    )
    by_module = {
        name: Cost(count_parameters(module), *(flops.get(name, 0) for flops in counted))
        for name, module in model.named_modules(remove_duplicate=False)
        if any(name in flops for flops in counted)
    }
    total = by_module.pop("")
    return Count(total.parameters, total.flops, total.flops_simple, total.flops_calibrated, size, by_module)


def image_size(model: nn.Module, input_size: InputSize) -> tuple[int, int, int]:
    """Return (C, H, W) of an input size that `count` accepts."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) not in (2, 3) or not all(isinstance(side, int) and side > 0 for side in size):
        raise ArgumentError(f"input_size must be a side, (H, W) or (C, H, W) in pixels, got {input_size!r}")
    channels = (getattr(module, "in_channels", None) for module in model.modules())
    taken = next((found for found in channels if isinstance(found, int)), 3)
    return size[0] if len(size) == 3 else taken, size[-2], size[-1]


def on_meta(model: nn.Module) -> nn.Module:
    """Copy a network to the meta device, in evaluation mode, with attention through the dispatcher's ops.

    The weights are not copied: deepcopy's memo maps each tensor to one without memory.
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
            module.backend = "auto"  # named back-ends bypass the op that has a formula
    return model


class _StemCorrections:
    """FLOPs to add to each attention stem, by its name, where our stem computes the paper's in another way.

    - Values. The paper's FLOPs include M value matrices applied to every pixel and the mixture of M values (Eq. 8). We
      mix the matrices once, since p depends only on the position in the block, and apply one matrix a pixel, which the
      op's formulas count. `simple` and `calibrated` get the rest while the model runs. The matrices are mixed here,
      before the counters start, and counted in `flops` only.
    - ReLU. The paper's stem has it at full resolution. Ours follows the max pool, with the same result and 1 / S**2 of
      the work. `calibrated`, the only convention that counts ReLU, gets the difference.
    """

    def __init__(self, model: nn.Module) -> None:
        self.flops: dict[str, int] = defaultdict(int)
        self.simple: dict[str, int] = defaultdict(int)
        self.calibrated: dict[str, int] = defaultdict(int)
        for name, stem in model.named_modules():
            if isinstance(stem, AttentionStem):
                self._mix(name, stem)
                stem.register_forward_hook(functools.partial(self._add, name))  # pyright: ignore

    def _mix(self, name: str, stem: AttentionStem) -> None:
        with FlopCounterMode(display=False) as mode:
            mixed = stem.mixed_values()
        self.flops[name] += mode.get_total_flops()
        stem.mixed_values = lambda: mixed

    def _add(self, name: str, stem: AttentionStem, images: tuple[Tensor], output: Tensor) -> None:
        (image,) = images
        values = mixture_extra_flops(image, stem.out_channels, stem.num_mixtures) if stem.values == "mixture" else 0
        relu = stem.activation * (pixels(image) * stem.out_channels - output.numel())
        self.simple[name] += values
        self.calibrated[name] += values + relu


def _by_module(mode: FlopCounterMode, model: nn.Module, corrections: dict[str, int]) -> dict[str, int]:
    """Return FLOPs by module name, "" for the whole; torch's names start with the name of the model's class."""
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
