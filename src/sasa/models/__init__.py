"""The networks of the paper by name, and their files."""

from sasa.models.config import ResNetConfig
from sasa.models.create import create_model, list_models, load_pretrained
from sasa.models.resnet import FeaturePyramid, ResNet
from sasa.models.retinanet import RetinaNet
from sasa.models.retinanet_config import RetinaNetConfig

__all__ = [
    "FeaturePyramid",
    "ResNet",
    "ResNetConfig",
    "RetinaNet",
    "RetinaNetConfig",
    "create_model",
    "list_models",
    "load_pretrained",
]
