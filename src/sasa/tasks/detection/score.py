"""The score of a detector in training."""

from sasa.metrics.average_precision import AveragePrecision


class DetectionScore(AveragePrecision):
    """Average precision with the columns of metrics.csv."""

    def row(self) -> dict[str, float]:
        """Return the columns of metrics.csv, with six digits."""
        figures = {"held_out_map": self.map, "held_out_map50": self.map50, "held_out_map75": self.map75}
        return {name: round(figure, 6) for name, figure in figures.items()}
