"""The `sasa_*` networks for timm: `import sasa.timm` registers them, `timm.create_model` makes them.

timm implements the rest: features_only, out_indices, global_pool, drop_rate, checkpoint files. The baselines are not
registered, since timm has other networks named `resnet26` and `resnet50`.

>>> import timm, sasa.timm
>>> network = timm.create_model("sasa_resnet26", features_only=True, out_indices=(2, 4), width=0.25)
>>> network.feature_info.channels(), network.feature_info.reduction()
([128, 512], [8, 32])
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from sasa.models import ResNet, ResNetConfig, create_model, list_models
from sasa.models.config import VARIANTS
from sasa.models.resnet import default_cfg

try:
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ImportError as error:
    raise ImportError("sasa.timm needs timm: pip install 'sasa[train]'") from error

__all__: list[str] = []  # register_model adds the names

default_cfgs = generate_default_cfgs(
    {
        name: {**default_cfg(ResNetConfig.from_dict(VARIANTS[name])), "paper_ids": "arXiv:1906.05909"}
        for name in list_models("sasa_*")
    }
)


def _network(name: str, *, drop_rate: float = 0.0, device: Any = None, dtype: Any = None, **options: Any) -> nn.Module:
    """`sasa.create_model` with the options of timm that are not options of the network."""
    model = create_model(name, **options)
    assert isinstance(model, ResNet)
    model.drop_rate = drop_rate
    return model.to(device=device, dtype=dtype)


def _register(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(partial(_network, name), name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name  # timm registers a function by its name
    entrypoint.__doc__ = f"`{name}` of `sasa.list_models()`; keywords are options of timm or of `sasa.create_model`."
    return register_model(entrypoint)


for _name in default_cfgs:
    globals()[_name] = _register(_name)
