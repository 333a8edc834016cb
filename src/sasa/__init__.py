"""sasa: stand-alone self-attention in vision models (Ramachandran et al., NeurIPS 2019) for PyTorch.

Names are imported on first use, so that `sasa --help` does not wait for torch. The operators are registered as soon as
both torch and sasa are imported, in any order, so loading a saved graph needs no other import; likewise their plain
forms with `torch.onnx`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sasa.errors import SasaError
from sasa.imports import after_import

if TYPE_CHECKING:
    from sasa import export, models, nn, ops
    from sasa.counting import count
    from sasa.models import create_model, list_models
    from sasa.nn import AttentionStem, LocalAttention2d, convert, optimize_for_inference
    from sasa.ops import backends

__version__ = "0.1.0"

__all__ = [
    "AttentionStem",
    "LocalAttention2d",
    "SasaError",
    "backends",
    "convert",
    "count",
    "create_model",
    "export",
    "list_models",
    "models",
    "nn",
    "ops",
    "optimize_for_inference",
]

_HOMES = {
    "AttentionStem": "sasa.nn",
    "LocalAttention2d": "sasa.nn",
    "backends": "sasa.ops",
    "convert": "sasa.nn",
    "count": "sasa.counting",
    "create_model": "sasa.models",
    "list_models": "sasa.models",
    "optimize_for_inference": "sasa.nn",
}


def __getattr__(name: str) -> Any:
    if name in ("export", "models", "nn", "ops"):
        return importlib.import_module(f"sasa.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'sasa' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


after_import("torch", lambda: importlib.import_module("sasa.ops"))
after_import("torch.onnx", lambda: importlib.import_module("sasa.export.decompositions").register())
