"""Helpers of the tests of export: a tiny network with class names, preprocessing and statistics of its own."""

import importlib.util

import pytest
import torch

import sasa
from helpers import normal
from sasa.export.formats import NEEDED_BY_ONNX

NEEDS_ONNX = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED_BY_ONNX), reason="needs sasa[export]"
)
LABELS = ["cat", "dog", "ship"]
PREPROCESSING = {"image_size": 24, "channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "crop_fraction": 1.0}


def make_network(name="sasa_resnet26", **options):
    """A network of four blocks whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    tiny = {"width": 0.1, "num_heads": 2, "kernel_size": 3, "layers": (1, 1, 1, 1), "groups": "ccca", "num_classes": 3}
    network = sasa.create_model(name, **{**tiny, **options})
    with torch.no_grad():
        network.train()(normal(4, 3, 24, 24, dtype=torch.float32))
    network.metadata = {"labels": LABELS, "preprocessing": PREPROCESSING}
    return network.eval()
