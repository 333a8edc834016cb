"""`sasa.export.export`: write a network to a file that is known to work."""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from errno import EISDIR
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sasa.errors import ArgumentError, SasaError
from sasa.export.check import compare, seconds_of
from sasa.export.description import describe
from sasa.export.detector import FoundBoxes, RawMaps
from sasa.export.formats import FORMATS, OPSET, Traced
from sasa.export.load import tensors
from sasa.files import write_errors, write_file
from sasa.models import RetinaNet
from sasa.nn import optimize_for_inference

TOLERANCE = 1e-4  # largest difference, relative to the largest number of an output, or to 1 if that is larger

DYNAMIC = 160  # smallest sides of the images that are traced for images of any size
WITH_BOXES = ("pt2", "onnx")


@dataclass(frozen=True)
class Exported:
    """A file that was written, loaded in a new process, and compared.

    Args:
        path: the file.
        size: in bytes.
        difference: the largest, see TOLERANCE.
        seconds: of one image in the new process.
        eager_seconds: of one image in the network itself.
        description: what the file says about itself.
    """

    path: Path
    size: int
    difference: float
    seconds: float
    eager_seconds: float
    description: dict[str, Any]


def export(
    network: nn.Module,
    example: Tensor | Sequence[Tensor],
    format: str,
    output: str | Path,
    *,
    dynamic_size: bool = False,
    boxes: bool = False,
    metadata: dict[str, Any] | None = None,
) -> Exported:
    """Export a network, load the file in a new process, compare the two on images, and only then put it in place.

    Args:
        network: ours, a converted one, or any other whose output is a tensor or a tuple of tensors; not changed.
        example: a batch of images (B, C, H, W) as the network takes them, real ones if possible; or several batches,
            of several sizes with `dynamic_size`. The number of images is always open in the exported network.
        format: "pt2" (a graph for `torch.export.load`), "aoti" (compiled, for Python and C++), "onnx" (plain ONNX
            operators, opset 18) or "safetensors" (the weights).
        output: the file; its name ends in .pt2, .onnx or .safetensors.
        dynamic_size: leave the height and width of the images open, too.
        boxes: for a detector: boxes, scores and labels instead of logits and deltas of all anchors; see `FoundBoxes`.
        metadata: plain values to keep in the file; by default those of the network: labels and preprocessing.

    Raises:
        ArgumentError: (a ValueError) an unknown format, another end of the name, or options that do not fit.
        SasaError: the network cannot be exported; the file cannot be written, loaded or run, or it differs by more
            than TOLERANCE. `output` is then as it was.
    """
    output, batches = Path(output), [example] if isinstance(example, Tensor) else list(example)
    _check(network, format, output, dynamic_size, boxes)
    _check_writable(output)
    network = copy.deepcopy(network).eval()
    wrapped = _wrap(network, boxes)
    graph = network if format == "safetensors" else _wrap(optimize_for_inference(network), boxes)
    largest = max(batches, key=len)
    description = describe(network, wrapped, largest, dynamic_size, metadata)
    if format == "onnx":
        description["opset"] = OPSET
    traced = Traced(graph, _traced_with(largest, dynamic_size), dynamic_size, description)
    content = FORMATS[format].content(traced)

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return tensors(wrapped(images))

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"network{FORMATS[format].suffix}"
        with write_errors(path):
            path.write_bytes(content)
        skeleton = _skeleton(network) if format == "safetensors" and "options" not in description else None
        compared = compare(path, run, _compared_on(batches, dynamic_size), skeleton)
    if not compared.difference <= TOLERANCE:
        raise SasaError(
            f"the exported network differs by {compared.difference:.1e} of the largest output, and {TOLERANCE:.0e} is "
            f"allowed: {output} was not written"
        )
    write_file(output, content)
    eager = seconds_of(lambda: run(largest[:1]))
    return Exported(output, len(content), compared.difference, compared.seconds, eager, description)


def _check(network: nn.Module, format: str, output: Path, dynamic_size: bool, boxes: bool) -> None:
    if format not in FORMATS:
        raise ArgumentError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
    if output.suffix != FORMATS[format].suffix:
        raise ArgumentError(f"the name of a file in format {format} must end in {FORMATS[format].suffix}, got {output}")
    if not boxes:
        return
    if not isinstance(network, RetinaNet):
        raise ArgumentError(f"boxes are found by detectors, and this is a {type(network).__name__}")
    if format not in WITH_BOXES:
        raise ArgumentError(f"boxes can be exported as {' or '.join(WITH_BOXES)}, not as {format}")
    if dynamic_size:
        raise ArgumentError("boxes need images of one size: leave out either boxes or the dynamic size")


def _check_writable(output: Path) -> None:
    """Raise a `SasaError` now, not after minutes of work, if the file could not be put in place."""
    with write_errors(output), tempfile.TemporaryFile(dir=output.parent):
        if output.is_dir():
            raise IsADirectoryError(EISDIR, "Is a directory")


def _wrap(network: nn.Module, boxes: bool) -> nn.Module:
    """The network with tensors as its outputs."""
    if not isinstance(network, RetinaNet):
        return network
    return FoundBoxes(network) if boxes else RawMaps(network)


def _traced_with(images: Tensor, dynamic_size: bool) -> Tensor:
    """Images whose open sizes differ and are above 1 in every map of the network: a trace takes 1 for a constant."""
    images = images[:2] if len(images) > 1 else images.expand(2, -1, -1, -1)
    if dynamic_size:
        images = F.interpolate(images, (max(DYNAMIC, images.shape[2]) + 32, max(DYNAMIC, images.shape[3]) + 64))
    return images.contiguous()


def _compared_on(batches: list[Tensor], dynamic_size: bool) -> list[Tensor]:
    """The batches, one image alone, and with `dynamic_size` images of another size, which blocks do not divide."""
    height, width = batches[0].shape[2:]
    others = [F.interpolate(batches[0], (height + height // 3 + 1, width + width // 5 + 1))] if dynamic_size else []
    return [*batches, batches[0][:1], *others]


def _skeleton(network: nn.Module) -> nn.Module:
    """A copy of the network without its weights."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in copied.state_dict().values():
            tensor.zero_()
    return copied
