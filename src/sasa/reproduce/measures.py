"""What the networks of a table are compared by: accuracy, or the precision of boxes."""

from dataclasses import dataclass
from typing import Any

from sasa.counting.paper_cells import Cells

DETECTION = "2"  # the table of detection; all others are of classification
BOXES = ("coco", "bccd")  # data sets of detection


@dataclass(frozen=True)
class Measure:
    """A share of right answers, in summary.json and in the paper.

    Args:
        name: as a heading, without its unit, %.
        key: of summary.json, where it is 0 to 1.
        others: keys of summary.json whose values stand beside it in results.csv.
    """

    name: str
    key: str
    others: tuple[str, ...]

    @property
    def column(self) -> str:
        """Its heading in results.csv."""
        return column(self.key)

    def ours(self, summary: dict[str, Any]) -> float:
        """In %."""
        return 100 * summary[self.key]

    def paper(self, cells: Cells | None) -> float | None:
        """In %, None where the paper prints none."""
        if cells is None:
            return None
        return cells.ap[0] if cells.ap else cells.top1


def column(key: str) -> str:
    """ "top5" of "held_out_top5"."""
    return key.removeprefix("held_out_")


TOP1 = Measure("top-1", "held_out_top1", ("held_out_top5", "held_out_loss"))
MAP = Measure("mAP", "held_out_map", ("held_out_map50", "held_out_map75"))


def measure_of(table: str) -> Measure:
    """Mean average precision for Table 2, accuracy for all others."""
    return MAP if table == DETECTION else TOP1
