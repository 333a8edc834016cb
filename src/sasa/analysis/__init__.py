"""FLOPS and parameters counted from a built model, and the paper's tables beside them."""

from sasa.analysis.count import Cost, Count, count

__all__ = ["Cost", "Count", "count"]
