"""Mixup and cutmix: mix the images of a training batch, and their labels."""

from typing import Any

import torch
from torch import Tensor

from sasa.data.random_numbers import seeded_numbers
from sasa.errors import ArgumentError


class Mixing:
    """Mix each image with the previous one of the batch (whose order is random).

    Mixup (Zhang et al. 2018) adds images with weights lambda and 1 - lambda; cutmix (Yun et al. 2019) pastes a
    rectangle of the other image, about 1 - lambda of the area. Lambda is drawn once a batch from Beta(alpha, alpha),
    and labels are mixed with the same weights. torchvision's transforms of the same names do the work.

    Args:
        mixup, cutmix: alpha, or 0 for none; with both, each batch gets one of them, with equal probability.
        num_classes: K, length of a target.
        label_smoothing: fraction of each target, 0 to 1, that is spread over all classes.

    Raises:
        ArgumentError: a negative alpha, or a label_smoothing outside 0 to 1.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int, label_smoothing: float) -> None:
        from torchvision.transforms import v2

        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < float("inf"):
                raise ArgumentError(f"{name} must be 0 (none) or the alpha of a Beta distribution, got {alpha}")
        if not 0 <= label_smoothing <= 1:
            raise ArgumentError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
        self.transforms: list[Any] = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W) and labels (B,), int64; returns images, and targets (B, K) whose rows sum to 1.

        A pure function of its arguments, which stay unchanged; the seed is 0 to 2^63 - 1.
        """
        targets = self.targets(labels)
        if not self.transforms:
            return images, targets
        with seeded_numbers(seed):
            transform = self.transforms[int(torch.randint(len(self.transforms), ()))]
            return transform(images, targets)

    def targets(self, labels: Tensor) -> Tensor:
        """Return targets (B, K), float32: labels (B,) with label smoothing, as `F.cross_entropy` applies it."""
        spread = self.label_smoothing / self.num_classes
        targets = torch.full((len(labels), self.num_classes), spread, device=labels.device)
        return targets.scatter_(1, labels[:, None], 1 - self.label_smoothing + spread)
