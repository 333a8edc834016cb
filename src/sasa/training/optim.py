"""SGD with Nesterov momentum or AdamW, and a learning rate that depends on the step alone."""

import math

import torch
from torch import nn

from sasa.training.settings import RecipeConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the parameters in two groups: weights of convolutions and linear layers decay; norms, biases and position
    embeddings do not.
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()  # pyright: ignore
    decay, rest = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (rest if parameter.dim() < 2 or name in exempt else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def make_optimizer(model: nn.Module, recipe: RecipeConfig) -> torch.optim.Optimizer:
    """Make the recipe's optimizer over `parameter_groups`."""
    groups = parameter_groups(model, recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


def schedule(step: int, total: int, warmup: float) -> float:
    """Return the factor of the learning rate at `step`: linear from 0 to 1 over `warmup` steps, then a cosine to 0.

    The warm-up takes at most half of the `total` steps, so that short runs reach the highest rate and come down again.
    """
    warmup = min(warmup, total / 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
