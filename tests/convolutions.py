"""Helpers of the tests of `sasa.convert`: convolutions to convert, and the layers of the result."""

from torch import nn

from sasa import LocalAttention2d


def conv(into: int = 16, out: int = 16, kernel=3, **options) -> nn.Conv2d:
    if "padding" not in options:
        options["padding"] = kernel // 2
    return nn.Conv2d(into, out, kernel, **options)


def spatial(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]


def attentions(model: nn.Module) -> list[LocalAttention2d]:
    return [module for module in model.modules() if isinstance(module, LocalAttention2d)]
