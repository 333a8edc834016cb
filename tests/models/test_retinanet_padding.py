"""The effect of padding: a detector's logits for an image alone and padded in a batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sasa


def images(count, height, width):
    """Patches and noise of another brightness and contrast in each, as images are after normalisation."""
    patches = F.interpolate(torch.randn(count, 3, height // 8, width // 8), scale_factor=8, mode="bilinear")
    x = patches / patches.std() * 0.9 + 0.4 * torch.randn(count, 3, height, width)
    return x * (0.5 + torch.rand(count, 1, 1, 1)) + torch.randn(count, 3, 1, 1)


def settle(network, maps_of):
    """Batch norms take the statistics of a batch with padding, as after training: maps keep their scale."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    batch = torch.cat([images(8, 96, 128), F.pad(images(8, 96, 96), (0, 32))])
    maps_of(network.train(), batch)
    network.eval()


@torch.no_grad()
def change_in_padding(maps_of, network):
    """How far logits inside images of 96 x 96 move when these are padded to 96 x 128, in their standard deviations.

    Args:
        maps_of: gives the logits of a batch as maps (B, C, h, w) from fine to coarse.
        network: freshly made.

    Returns:
        For each level.
    """
    settle(network, maps_of)
    alone = images(4, 96, 96)
    both = torch.cat([F.pad(alone, (0, 32)), images(1, 96, 128)])
    changes = []
    for before, after in zip(maps_of(network, alone), maps_of(network, both), strict=True):
        inside = after[: len(alone), :, : before.shape[2], : before.shape[3]]
        spread = (before - before.mean((0, 2, 3), keepdim=True)).square().mean()
        changes.append(((before - inside).square().mean() / spread).sqrt().item())
    return changes


def our_maps(network, x):
    maps = []
    hook = network.classify.predict.register_forward_hook(lambda module, args, y: maps.append(y))
    network(x)
    hook.remove()
    return maps


def torchvision_maps(network, x):
    levels = list(network.backbone(x).values())
    head = network.head.classification_head
    return [head.cls_logits(head.conv(level)) for level in levels]


def medians(maps_of, make):
    """Of the change in three networks, for each level."""
    changes = []
    for seed in range(3):
        torch.manual_seed(seed)
        changes.append(change_in_padding(maps_of, make()))
    return [sorted(level)[1] for level in zip(*changes, strict=True)]


@pytest.fixture(scope="module")
def torchvisions_change():
    from torchvision.models.detection import retinanet_resnet50_fpn

    make = lambda: retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)  # noqa: E731
    return medians(torchvision_maps, make)


@pytest.mark.parametrize(
    ("name", "options", "levels", "times"),
    [
        ("retinanet_resnet26", {}, 2, 1.5),
        ("retinanet_resnet26", {"norm": "group"}, 5, 1.5),
        # P3 and P4 have 93 % of the anchors. Behind batch norms, on P5 to P7 of so small an image (3 x 3 to 1 x 1,
        # most positions at the border), zeros beside it move attention up to 4 times as far as torchvision's network:
        ("retinanet_sasa_resnet26_attnheads", {}, 2, 2),
        ("retinanet_sasa_resnet26_attn", {}, 2, 2.5),
        # ... which windows without the zeros, or group norm, avoid.
        ("retinanet_sasa_resnet26_attnheads", {"padding": "mask"}, 5, 2),
        ("retinanet_sasa_resnet26_attnheads", {"norm": "group"}, 5, 2),
    ],
    ids=str,
)
def test_padding_moves_logits_about_as_far_as_torchvisions(name, options, levels, times, torchvisions_change):
    options = {"width": 0.25, "num_heads": 4, "num_classes": 3, "zero_init_residual": False, **options}
    changes = medians(our_maps, lambda: sasa.create_model(name, **options))
    print(name, [round(x, 2) for x in changes], "torchvision", [round(x, 2) for x in torchvisions_change])
    assert all(x <= times * y for x, y in zip(changes[:levels], torchvisions_change, strict=False))
