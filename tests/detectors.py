"""Helpers of the tests of detectors: their names, small ones to run, and meta ones to count."""

import torch

import sasa

KINDS = ["retinanet_resnet26", "retinanet_sasa_resnet26_attnheads", "retinanet_sasa_resnet26_attn"]
SMALL = {"layers": (1, 1, 1, 1), "width": 0.1, "num_heads": 2, "kernel_size": 3, "num_classes": 3}


def small(name="retinanet_sasa_resnet26_attn", **options):
    """A detector of four blocks, and of 24 channels in pyramid and heads."""
    return sasa.create_model(name, **{**SMALL, **options})


def on_meta(name, **options):
    """A network on the meta device, for counting."""
    with torch.device("meta"):
        return sasa.create_model(name, **options)
