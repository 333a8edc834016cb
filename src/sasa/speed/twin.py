"""The convolutional twin of a network: the same architecture with convolutions in place of attention."""

import torch
from torch import nn

from sasa.errors import SasaError
from sasa.models import ResNet, ResNetConfig, RetinaNet


def convolutional_twin(network: ResNet | RetinaNet) -> ResNet | RetinaNet:
    """Build the same network with 3 x 3 convolutions in place of attention, with new random weights.

    Blocks, feature pyramid and heads change by configuration. An attention stem that reduces the image four times
    becomes the paper's convolutional stem; another one becomes a 3 x 3 convolution, batch norm, ReLU and a max pool as
    large as the stem's blocks, so that all feature maps have the same sizes in both networks.

    Raises:
        SasaError: the network has no attention.
    """
    torch.manual_seed(0)
    if isinstance(network, RetinaNet):
        config, kinds = network.config, {"heads": "conv", "pyramid": "conv"}
        body, attentive = config.backbone, (config.heads, config.pyramid) != ("conv", "conv")
    else:
        config, kinds, body, attentive = network.config, {}, network.config, False
    if not attentive and body.groups == "cccc" and body.stem in ("conv", "small_conv"):
        raise SasaError(f"{network.name} has no attention, so it has no convolutional twin to be compared with")
    options = {**config.to_dict(), **kinds, "groups": "cccc", "stem": _convolutional_stem(body)}
    twin = type(network)(type(config).from_dict(options), f"convolutional twin of {network.name}")  # pyright: ignore
    if body.stem == "attention" and body.stem_block != 4:
        stem = (twin.backbone.body if isinstance(twin, RetinaNet) else twin).stem
        assert isinstance(stem, nn.Sequential)
        stem.add_module("pool", nn.MaxPool2d(body.stem_block, ceil_mode=True))
    return twin


def _convolutional_stem(config: ResNetConfig) -> str:
    replaced = {"attention": "conv" if config.stem_block == 4 else "small_conv", "small_attention": "small_conv"}
    return replaced.get(config.stem, config.stem)
