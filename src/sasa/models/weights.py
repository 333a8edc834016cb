"""Networks on disk: model.safetensors and config.json, written atomically.

Pickles are refused, since opening one can run any code.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sasa.errors import ArgumentError, SasaError
from sasa.files import atomic_write, write_errors
from sasa.nn import AttentionStem, LocalAttention2d
from sasa.nn.fold import is_folded

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT = 1
# Layers whose options decide a network's output, the types of options, and those that do not decide it.
LAYERS = (LocalAttention2d, AttentionStem, nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
OPTION = (int, float, str, tuple)
NOT_SAVED = ("backend", "momentum", "training")
State = dict[str, torch.Tensor]
PICKLES = (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))  # first bytes of torch.save files


def save_network(network: nn.Module, directory: str | Path, metadata: dict[str, Any], kind: Callable) -> None:
    """Write model.safetensors and config.json, each replaced atomically.

    Args:
        network: a ResNet or a RetinaNet; its `name` and `config` are saved.
        directory: created if missing.
        metadata: labels (list of class names), input_size, mean, std, ... of the weights, added to those of the
            network; saved in config.json, and in `model.metadata` after loading.
        kind: the class, (config, name) -> network, that it is loaded as.

    Raises:
        ArgumentError: the network's layers are not those of its options, so that it could not be loaded.
        SasaError: a file cannot be written, or safetensors is not installed.
    """
    if is_folded(network):
        raise ArgumentError(
            f"this {network.name} was made by optimize_for_inference and lacks its batch norms: "
            "save the original, and optimize it again after loading"
        )
    with torch.device("meta"):
        loaded = kind(network.config, network.name)
    if difference := _difference(network.state_dict(), loaded.state_dict()) or _changed_option(network, loaded):
        raise ArgumentError(
            f"this {network.name} was changed after it was created and could not be loaded: {difference}; save its "
            "state_dict(), and load that into a network with the same changes"
        )
    directory = Path(directory)
    config = {
        "format": FORMAT,
        "architecture": network.name,
        "options": network.config.to_dict(),  # pyright: ignore
        "metadata": {**network.metadata, **metadata},  # pyright: ignore
    }
    try:  # before a file is written, so that an earlier network stays complete
        text = json.dumps(config, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"metadata must be values that JSON can represent: {error}") from error
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = _safetensors().save(weights, {"format": "pt"})
    with write_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write(directory / WEIGHTS_NAME, content)
        atomic_write(directory / CONFIG_NAME, text.encode())


def read_config(directory: Path) -> dict[str, Any]:
    """Read config.json of a saved network and check that it has format, architecture, options and metadata."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise SasaError(f"{directory} holds no saved network: {CONFIG_NAME} is missing")
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise SasaError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SasaError(f"{path} is not a network's config: it is not JSON ({error})") from error
    if not isinstance(config, dict) or "format" not in config:
        raise SasaError(f"{path} is not a network's config: it has no format")
    if config["format"] != FORMAT:
        raise SasaError(f"{path} has format {config['format']!r}; this version reads format {FORMAT}")
    config = {"architecture": "resnet", "metadata": {}, **config}
    for name, kind, text in (
        ("options", dict, "a table"),
        ("metadata", dict, "a table"),
        ("architecture", str, "text"),
    ):
        if not isinstance(config.get(name), kind):
            raise SasaError(f"{path} is not a network's config: {name} must be {text}, got {config.get(name)!r}")
    return config


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into the model; names, shapes and kinds of numbers must agree."""
    state = read_safetensors(path)
    if difference := _difference(state, model.state_dict()):
        raise SasaError(f"{path} does not fit the network: {difference}")
    model.load_state_dict(state)


def _difference(state: State, expected: State) -> str:
    """Say how a state differs from the expected one in names, shapes or kinds of numbers; "" if it does not."""
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which the network lacks"
        return f"it {what} ({len(missing)} missing, {len(extra)} extra)"
    for name, like in expected.items():
        tensor = state[name]
        if tensor.shape != like.shape:
            return f"{name} is {tuple(tensor.shape)}, not {tuple(like.shape)}"
        if tensor.is_floating_point() != like.is_floating_point():
            return f"{name} is {tensor.dtype}, not {like.dtype}"
    return ""


def _changed_option(network: nn.Module, loaded: nn.Module) -> str:
    """Say which option of a layer differs from that of the network as it would be loaded; "" if none does."""
    for name, layer in loaded.named_modules():
        if isinstance(layer, LAYERS):
            given = vars(network.get_submodule(name))
            for option, value in vars(layer).items():
                if isinstance(value, OPTION) and option not in NOT_SAVED and given.get(option) != value:
                    return f"{name}.{option} is {given.get(option)!r}, not {value!r}"
    return ""


def read_safetensors(path: Path) -> State:
    """Read the tensors of a safetensors file; other files, pickles in particular, are refused."""
    library = _safetensors()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SasaError(f"cannot read weights {path}: {error.strerror or error}") from error
    try:
        return library.load(content)
    except Exception as error:  # a damaged header fails in many ways; none of them runs code
        # Only now, for the message: a valid file may begin with these bytes, which are the length of its header.
        if content.startswith(PICKLES):
            raise SasaError(
                f"{path} is a pickle (a torch.save file), which could run code when opened; it was not opened: "
                "weights must be safetensors"
            ) from error
        raise SasaError(f"{path} is not a whole safetensors file: {error}") from error


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise SasaError("saving and loading networks needs safetensors: pip install 'sasa[train]'") from error
    return safetensors.torch
