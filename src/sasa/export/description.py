"""What an exported file says about itself: the network, its input with the preprocessing, and its outputs."""

from typing import Any

import torch
from torch import Tensor, nn

from sasa import __version__
from sasa.export.load import tensors


def describe(
    network: nn.Module, wrapped: nn.Module, example: Tensor, dynamic_size: bool, metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the description as plain values.

    Args:
        network: the network.
        wrapped: the same, with tensors as its outputs.
        example: a batch of images.
        dynamic_size: whether height and width are open.
        metadata: labels, preprocessing and other plain values; None for those of the network.
    """
    if metadata is None:
        metadata = dict(getattr(network, "metadata", {}))
    described: dict[str, Any] = {"sasa": __version__, "architecture": type(network).__name__}
    if hasattr(network, "config"):  # a network of sasa.create_model, which can be made again from this
        described |= {"architecture": network.name, "options": network.config.to_dict()}  # pyright: ignore
    size = ["height", "width"] if dynamic_size else list(example.shape[2:])
    preprocessing = metadata.get("preprocessing")
    described["input"] = {
        "name": "images",
        "shape": ["batch", example.shape[1], *size],
        "dtype": str(example.dtype).removeprefix("torch."),
        "values": "as the network was trained" if preprocessing is None else values_of(preprocessing),
    }
    return {**described, "outputs": _output_names(wrapped, example[:1]), **metadata}


def values_of(preprocessing: dict[str, Any]) -> str:
    """Describe the numbers that the network expects for an image, in words."""
    mean, std = (", ".join(f"{value:g}" for value in preprocessing[name]) for name in ("mean", "std"))
    colour = "gray" if len(preprocessing["mean"]) == 1 else "RGB"
    size = preprocessing["image_size"]
    if "crop_fraction" in preprocessing:
        side = round(size / preprocessing["crop_fraction"])
        resized = f"shorter side resized to {side}, centre crop of {size} x {size}"
    else:
        resized = f"longer side resized to {size}, then zeros at the right and the bottom"
    return f"{colour}, {resized}; pixels / 255, minus mean ({mean}), divided by std ({std})"


def _output_names(wrapped: nn.Module, example: Tensor) -> list[str]:
    if hasattr(wrapped, "outputs"):
        return list(wrapped.outputs)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        count = len(tensors(wrapped(example)))
    return ["logits"] if count == 1 else [f"output_{number}" for number in range(count)]
