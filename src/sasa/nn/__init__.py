"""Layers that own parameters."""

from sasa.nn.attention import LocalAttention2d
from sasa.nn.convert import convert
from sasa.nn.fold import optimize_for_inference
from sasa.nn.position import sinusoid
from sasa.nn.stem import AttentionStem

__all__ = ["AttentionStem", "LocalAttention2d", "convert", "optimize_for_inference", "sinusoid"]
