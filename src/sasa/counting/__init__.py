"""FLOPs and parameters counted from built networks, also beside the cells of the paper's tables."""

from sasa.counting.count import Cost, Count, count
from sasa.counting.paper_tables import Claim, CountedRow, CountedTable, claims, tables, to_text

__all__ = ["Claim", "Cost", "Count", "CountedRow", "CountedTable", "claims", "count", "tables", "to_text"]
