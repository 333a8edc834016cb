"""The network of a run, or of a name, with images to compare an export on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from sasa.errors import SasaError
from sasa.models import create_model, list_models
from sasa.models.hub import locate
from sasa.models.retinanet_config import DETECTORS
from sasa.tasks.registry import load_trained

IMAGES = 4  # that an export is compared on
CLASSIFIER_SIZE, DETECTOR_SIZE = 224, 640  # pixels a side for networks by name, which have no preprocessing


@dataclass(frozen=True)
class Subject:
    """A network to export.

    Args:
        network: the network.
        images: (B, C, H, W), as the network takes them, of the size to export for.
        source: where the images come from, for a message.
    """

    network: nn.Module
    images: Tensor
    source: str


def open_subject(name: str, paths: Sequence[Path]) -> Subject:
    """Read the network and images: the files, else validation images of the run, else generated ones.

    Args:
        name: a directory, hf:OWNER/NAME, or a name of `sasa.list_models()`, which gives a freshly initialised network.
        paths: image files; not for a freshly initialised network.

    Raises:
        SasaError: neither a trained network nor a name; images for a freshly initialised network.
        DataError: an image that cannot be read.
    """
    if name in list_models() and not Path(name).is_dir():
        if paths:
            raise SasaError(f"{name} is untrained and has no preprocessing for images: leave {paths[0]} out")
        side = DETECTOR_SIZE if name in DETECTORS else CLASSIFIER_SIZE
        return Subject(create_model(name), _noise(3, side), f"{IMAGES} generated images; the weights are untrained")
    trained = load_trained(name, "cpu")
    if paths or (locate(name) / "config.yaml").is_file():
        images = [named.image for named in islice(trained.images_of(name, paths), IMAGES)]
        kind = "image" if paths else "validation image"
        source = f"{len(images)} {kind}{'s'[: len(images) != 1]}"
        return Subject(trained.network, trained.inputs(images), source)
    return Subject(trained.network, _noise(trained.preprocessing.channels, trained.side), f"{IMAGES} generated images")


def _noise(channels: int, side: int) -> Tensor:
    return torch.randn(IMAGES, channels, side, side, generator=torch.Generator().manual_seed(0))
