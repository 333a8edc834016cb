"""Load an exported file as a function of a batch of images."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sasa.errors import ArgumentError, SasaError
from sasa.export.formats import KEY

Run = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Loaded:
    """A file that `sasa.export` wrote.

    Args:
        run: (B, C, H, W) -> the outputs. Of a graph it raises an `ArgumentError` for images of another shape or dtype
            than it was exported for: compiled code itself checks neither these nor strides, and reads other memory.
        description: class names, preprocessing, the input's shape and the outputs' names.
    """

    run: Run
    description: dict[str, Any]


def load(path: str | Path, network: nn.Module | None = None) -> Loaded:
    """Load a file that `sasa.export` wrote; only torch, or ONNX Runtime for that format, takes part in running it.

    Args:
        path: the file.
        network: for the weights of a network that `sasa.create_model` does not know: the network to load them into.

    Raises:
        SasaError: no such file, or not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise SasaError(f"{path} is not a file")
    try:
        if path.suffix == ".onnx":
            return _onnx(path)
        if path.suffix == ".safetensors":
            return _safetensors(path, network)
        return _aoti(path) if _is_compiled(path) else _pt2(path)
    except SasaError:
        raise
    except Exception as error:  # each library has its own
        raise SasaError(f"{path} cannot be loaded: {(str(error).splitlines() or [''])[0]}") from error


def _is_compiled(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".so") for name in archive.namelist())


def _pt2(path: Path) -> Loaded:
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(f"/extra/{KEY}"))
        description = json.loads(archive.read(name))
    if "boxes" in description["outputs"]:
        import torchvision  # noqa: F401 - registers its operator of non-maximum suppression
    module = torch.export.load(path).module()

    def run(images: Tensor) -> list[Tensor]:
        try:
            return tensors(module(images))
        except AssertionError as error:
            height, width = images.shape[2:]
            raise SasaError(
                f"the graph does not take images of {height} x {width} ({error}): with open sizes, the format pt2 "
                "needs more than one pixel a side in every feature map, and with torch 2.11 sizes with the remainders "
                "of the traced ones; use larger images or another format"
            ) from error

    return Loaded(_checking(run, description), description)


def _aoti(path: Path) -> Loaded:
    compiled = torch._inductor.aoti_load_package(str(path))
    description = json.loads(compiled.loader.get_metadata()[KEY])  # pyright: ignore[reportAttributeAccessIssue]
    return Loaded(_checking(lambda images: tensors(compiled(images.contiguous())), description), description)


def _onnx(path: Path) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    description = json.loads(session.get_modelmeta().custom_metadata_map[KEY])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]

    return Loaded(_checking(run, description), description)


def _checking(run: Run, description: dict[str, Any]) -> Run:
    """Return `run`, preceded by a check of the images; axes that are open have names in the description."""
    shape, dtype = description["input"]["shape"], description["input"]["dtype"]

    def checked(images: Tensor) -> list[Tensor]:
        found = list(images.shape)
        fits = len(found) == len(shape) and all(isinstance(w, str) or w == s for w, s in zip(shape, found, strict=True))
        got = str(images.dtype).removeprefix("torch.")
        if not fits or got != dtype:
            wanted, given = (", ".join(map(str, sizes)) for sizes in (shape, found))
            raise ArgumentError(f"images must be {dtype} ({wanted}), got {got} ({given})")
        return run(images)

    return checked


def _safetensors(path: Path, network: nn.Module | None) -> Loaded:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()[KEY])
    if network is None:
        network = _rebuilt(path, description)
    network.load_state_dict(load_file(path))
    network.eval()
    return Loaded(lambda images: tensors(network(images)), description)


def _rebuilt(path: Path, description: dict[str, Any]) -> nn.Module:
    from sasa.models import create_model

    if "options" not in description:
        raise SasaError(f"{path} holds weights only, of a {description['architecture']}: load them into such a network")
    return create_model(description["architecture"], **description["options"])


def tensors(outputs: Any) -> list[Tensor]:
    """Return a network's outputs as a list."""
    return [outputs] if isinstance(outputs, Tensor) else [output for output in outputs if isinstance(output, Tensor)]
