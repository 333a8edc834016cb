"""sasa: stand-alone self-attention in vision models (Ramachandran et al., NeurIPS 2019) for PyTorch."""

from sasa import nn, ops
from sasa.analysis import count
from sasa.errors import SasaError
from sasa.models import create_model, list_models
from sasa.nn import AttentionStem, LocalAttention2d, convert
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
    "list_models",
    "nn",
    "ops",
]
