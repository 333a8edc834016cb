"""Networks on disk: model.safetensors and config.json, written atomically, read without running anything.

Pickles are refused: opening one runs what it says.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sasa.errors import ArgumentError, SasaError
from sasa.models.config import ResNetConfig
from sasa.models.resnet import ResNet

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT = 1


def save_pretrained(model: ResNet, directory: str | Path, **metadata: Any) -> None:
    """Write model.safetensors and config.json, each replaced atomically.

    Args:
        model: a network of `create_model`.
        directory: made if it is not there.
        **metadata: what belongs to the weights: labels (list of class names), input_size, mean, std, ...; kept in
            config.json and in `model.metadata` after loading.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        atomic_write(directory / WEIGHTS_NAME, _safetensors().save(weights, {"format": "pt"}))
        config = {
            "format": FORMAT,
            "architecture": model.name,
            "options": {**model.config.to_dict(), "num_classes": model.num_classes},
            "metadata": {**model.metadata, **metadata},
        }
        atomic_write(directory / CONFIG_NAME, (json.dumps(config, indent=2) + "\n").encode())
    except OSError as error:
        raise SasaError(f"cannot write {directory}: {error.strerror or error}") from error


def load_pretrained(directory: Path, expected: dict[str, Any] | None = None) -> ResNet:
    """The network that `save_pretrained` wrote.

    Args:
        directory: with model.safetensors and config.json.
        expected: options that must agree with what was saved.

    Raises:
        ArgumentError: where they do not agree.
        SasaError: a file that is missing, damaged, or a pickle (refused, not opened).
    """
    config = read_config(directory)
    options = config["options"]
    for name, value in (expected or {}).items():
        if name in options and _plain(options[name]) != _plain(value):
            hint = "; load it as it is and call reset_classifier() for a new head" if name == "num_classes" else ""
            raise ArgumentError(f"{directory} holds a network with {name}={options[name]}, not {value}{hint}")
    model = ResNet(ResNetConfig.from_dict({**options, **(expected or {})}), config.get("architecture", "resnet"))
    model.metadata = config.get("metadata", {})
    load_weights(model, directory / WEIGHTS_NAME)
    return model


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a saved network, checked for its shape."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise SasaError(f"{directory} holds no saved network: {CONFIG_NAME} is missing")
    try:
        config = json.loads(path.read_text())
        if not isinstance(config["options"], dict):
            raise TypeError("options")
    except (ValueError, KeyError, TypeError) as error:
        raise SasaError(f"{path} is not a network's config: {error}") from error
    if config.get("format") != FORMAT:
        raise SasaError(f"{path} has format {config.get('format')!r}; this version reads format {FORMAT}")
    return config


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill the model from a safetensors file; every tensor must be there and fit."""
    state = read_safetensors(path)
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which the network lacks"
        raise SasaError(f"{path} does not fit the network: it {what} ({len(missing)} missing, {len(extra)} extra)")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise SasaError(
                f"{path} does not fit the network: {name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            )
    model.load_state_dict(state)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; anything else, a pickle above all, is refused and not opened further."""
    try:
        with path.open("rb") as file:
            head = file.read(2)
        if head in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise SasaError(
                f"{path} is a pickle (a torch.save file), which could run code when opened; it was not opened: "
                "weights must be safetensors"
            )
        return _safetensors().load(path.read_bytes())
    except OSError as error:
        raise SasaError(f"cannot read weights {path}: {error.strerror or error}") from error
    except _safetensors_error() as error:
        raise SasaError(f"{path} is not a whole safetensors file: {error}") from error


def atomic_write(path: Path, content: bytes) -> None:
    """Replace the file as one step: a reader, or a power cut, sees the old content or the new, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp's files are private; a written file is as open as others
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise SasaError("saving and loading networks needs safetensors: pip install 'sasa[train]'") from error
    return safetensors.torch


def _safetensors_error() -> type[Exception]:
    import safetensors

    return safetensors.SafetensorError
