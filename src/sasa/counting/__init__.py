"""FLOPS and parameters counted from a built model, and the paper's tables with those counts beside its cells."""

from sasa.counting.count import Cost, Count, count
from sasa.counting.paper_tables import Claim, Row, Table, claims, tables, to_text

__all__ = ["Claim", "Cost", "Count", "Row", "Table", "claims", "count", "tables", "to_text"]
