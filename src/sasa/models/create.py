"""`create_model` and `list_models`: networks by name, from a directory, or from the Hugging Face Hub."""

import difflib
import fnmatch
from pathlib import Path
from typing import Any

from sasa.errors import ArgumentError, SasaError
from sasa.models.config import VARIANTS, ResNetConfig
from sasa.models.hub import locate, on_hub
from sasa.models.resnet import FeaturePyramid, ResNet
from sasa.models.retinanet import RetinaNet
from sasa.models.retinanet_config import DETECTORS, RetinaNetConfig
from sasa.models.weights import CONFIG_NAME, WEIGHTS_NAME, load_weights, read_config


def list_models(pattern: str | None = None) -> list[str]:
    """List the names of networks, all or those that match a shell pattern.

    >>> sasa.list_models("sasa_resnet26*")
    ['sasa_resnet26', 'sasa_resnet26_convstem']
    """
    return sorted(name for name in (*VARIANTS, *DETECTORS) if pattern is None or fnmatch.fnmatch(name, pattern))


def create_model(
    name_or_directory: str | Path,
    *,
    features_only: bool = False,
    out_indices: tuple[int, ...] = (1, 2, 3, 4),
    **options: Any,
) -> ResNet | FeaturePyramid | RetinaNet:
    """Create a network of the paper by name, freshly initialised, or load a saved one with its weights.

    Args:
        name_or_directory: a name of `list_models()`; a directory with model.safetensors and config.json; or
            "hf:owner/name" (or "hf:owner/name@revision") on the Hugging Face Hub, which needs the extra `hub`.
        features_only: return a `FeaturePyramid`, whose output is a list of maps, instead of a classifier.
        out_indices: with features_only, the maps to return: 0 the stem, 1 to 4 the groups.
        **options: fields of `ResNetConfig`: num_classes=1000, in_chans=3, width=1.0, stem, groups, kernel_size=7,
            num_heads=8, position="relative", content=True, padding, stem_block=4, stem_values="mixture", ...
            For a detector also those of `RetinaNetConfig`: num_classes=90, anchors=6, norm="batch", ...
            For a saved network they must agree with its options. None means the default.

    Raises:
        ArgumentError: (a ValueError) an unknown name or option (similar ones are listed), or values that do not fit.
        SasaError: files that cannot be read or downloaded, see `load_pretrained` and `sasa.models.hub.download`.

    >>> sasa.create_model("sasa_resnet26", num_classes=10, width=0.25)(torch.randn(2, 3, 37, 50)).shape
    torch.Size([2, 10])
    """
    if not isinstance(name_or_directory, str | Path):
        raise ArgumentError(f"the name of a network must be text or a path, got {name_or_directory!r}")
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(options.get("groups"), tuple | list):
        options["groups"] = "".join(map(str, options["groups"]))
    name = str(name_or_directory)
    if name in VARIANTS:
        model = ResNet(ResNetConfig.from_dict({**VARIANTS[name], **options}), name)
    elif name in DETECTORS:
        model = RetinaNet(RetinaNetConfig.from_dict({**DETECTORS[name], **options}), name)
    elif on_hub(name_or_directory):
        model = load_pretrained(locate(name_or_directory), options)
    elif Path(name_or_directory).is_dir():
        model = load_pretrained(Path(name_or_directory), options)
    else:
        raise ArgumentError(unknown_model(name))
    if not features_only:
        return model
    if isinstance(model, RetinaNet):
        raise ArgumentError(f"{name} is a detector, and features_only is for classifiers")
    return FeaturePyramid(model, out_indices)


def load_pretrained(directory: Path, expected: dict[str, Any] | None = None) -> ResNet | RetinaNet:
    """Load the network that `save_pretrained` wrote.

    Args:
        directory: with model.safetensors and config.json.
        expected: options that the network must have.

    Raises:
        ArgumentError: an option differs.
        SasaError: a file is missing, damaged, or a pickle (which is not opened).
    """
    saved = read_config(directory)
    config_class = RetinaNetConfig if saved["architecture"].startswith("retinanet") else ResNetConfig
    try:
        config = config_class.from_dict(saved["options"])
    except ArgumentError as error:
        raise SasaError(f"{directory / CONFIG_NAME} is not the config of a network: {error}") from error
    wanted = config_class.from_dict({**config.to_dict(), **(expected or {})})
    for name, value in config.to_dict().items():
        other = wanted.to_dict()[name]
        if value != other:
            resettable = name == "num_classes" and isinstance(config, ResNetConfig)
            hint = "; load it without the option and call reset_classifier() for a new head" if resettable else ""
            raise ArgumentError(f"{directory} holds a network with {name}={value}, not {other}{hint}")
    network = RetinaNet if isinstance(config, RetinaNetConfig) else ResNet
    model = network(config, saved["architecture"])  # pyright: ignore[reportArgumentType]
    model.metadata = saved["metadata"]
    load_weights(model, directory / WEIGHTS_NAME)
    return model


def unknown_model(name: str) -> str:
    """The message for a name that is neither a network nor a directory."""
    near = difflib.get_close_matches(name, (*VARIANTS, *DETECTORS), 3, 0.5) or list_models("sasa*")
    return f"{name!r} is neither the name of a network nor the directory of one; try one of: {', '.join(near)}"
