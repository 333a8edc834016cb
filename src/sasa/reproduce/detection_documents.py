"""The files of configs/coco/: each row of Table 2 as a document, with the paper's numbers and recipe A.3."""

from dataclasses import dataclass

from sasa.counting.paper_tables import MILLION, CountedRow, tables
from sasa.reproduce.documents import SLURM, as_comments
from sasa.reproduce.measures import DETECTION
from sasa.reproduce.recipes import COCO, recipe
from sasa.reproduce.rows import NAMES
from sasa.tasks.stand_in import KNOWN_SETS


@dataclass(frozen=True)
class DetectionDocument:
    """A config of Table 2: its short name and its row."""

    name: str
    row: CountedRow

    @property
    def path(self) -> str:
        """coco/table2_conv_full.yaml."""
        return f"coco/table2_{self.name}.yaml"

    @property
    def run(self) -> str:
        """Where `sasa reproduce` looks for the run with seed 0."""
        return f"runs/reproduce/coco-full-{DETECTION}/runs/{self.name}-seed0"

    def text(self) -> str:
        """The whole file."""
        return f"{self.header()}task: detection\nmodel:\n  name: {self.row.cells.model}\n{COCO}"

    def header(self) -> str:
        """Comments before the settings."""
        lines = [f"# COCO: RetinaNet with ResNet-50, {self.row.cells.label}.", "# CountedRow of Table 2.", "#"]
        return as_comments(lines, self.entries())

    def entries(self) -> dict[str, str]:
        """What the header says, by its first word."""
        cells, ours = self.row.cells, self.row.ours
        images, epochs = KNOWN_SETS["coco"].training, recipe("coco", "full")["recipe"]["epochs"]
        whole, half, three_quarters, small, medium, large = cells.ap
        words = f"detect train --config configs/{self.path} --data DIR --output {self.run}"
        return {
            "Question": "what is attention worth in a detector's backbone, and in its heads?",
            "Paper": f"{cells.flops:.0f} B FLOPS, {cells.parameters} M parameters; mAP {whole}, at 50 {half}, at 75 "
            f"{three_quarters}; small {small}, medium {medium}, large {large}",
            "Counted": f"{ours.flops_calibrated / 1e9:.1f} B FLOPS (calibrated; {ours.flops_simple / 1e9:.1f} simple), "
            f"{ours.parameters / MILLION:.2f} M parameters, for 90 classes as the paper counts; COCO's files have 80",
            "Cost": f"3 x {ours.flops / 1e9:.3g}e9 FLOPS (products of a forward pass) x {images:,} images x "
            f"{epochs} epochs = {3 * ours.flops * images * epochs:.2e} FLOPS; hours: not measured by us",
            "Hardware": "one machine of 8 GPUs, 8 images on each",
            "Dry run": f"sasa detect train --config configs/{self.path} --dry-run",
            "Command": f"torchrun --nproc-per-node 8 -m sasa {words}",
            "Slurm": f"srun --nodes 1 {SLURM} sasa {words}",
            "Table": f"sasa reproduce {DETECTION} --dataset coco --data DIR --collect",
            "Seeds": "others with --set run.seed=1 and --output ...-seed1, and so on",
            "Measured": "not measured by us",
        }


def detection_documents() -> list[DetectionDocument]:
    """The five rows of Table 2, in the paper's order."""
    rows = tables(DETECTION)[0].rows
    return [DetectionDocument(name, row) for name, row in zip(NAMES[DETECTION], rows, strict=True)]
