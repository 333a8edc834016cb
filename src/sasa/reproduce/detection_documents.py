"""The files of configs/coco/: each row of Table 2 as a document, with the paper's numbers and recipe A.3."""

import textwrap
from dataclasses import dataclass

from sasa.analysis.paper import MILLION, Row, tables
from sasa.analysis.paper_cells import CELLS

NAMES = ("conv_baseline", "conv_convstem", "conv_full", "attention_convstem", "attention_full")
RECIPE = """data:
  source: coco # --data DIR says where it is: annotations/instances_{train,val}2017.json, train2017/, val2017/
  image_size: 640 # A.3: crops of at most 640
  jitter_min: 0.8 # ours, this line and the next: A.3 has multi-scale jitter, and no numbers
  jitter_max: 1.2
  flip: true # A.3
  vertical_flip: false
  colour: 0.0
  workers: 8 # of each process
recipe:
  epochs: 150 # A.3
  batch_size: 64 # A.3, over all processes
  optimizer: sgd
  momentum: 0.9 # A.3 names none: 0.9 is usual
  learning_rate: 0.12 # A.3
  warmup_epochs: 1 # A.3: linear from 0; then cosine decay
  weight_decay: 1.0e-4 # ours: the paper gives none
  box_weight: 1.0 # ours, as the losses of torchvision's RetinaNet
  clip_grad_norm: 10.0 # ours: A.3 starts from random weights at this learning rate
run:
  precision: bf16-mixed # ours
"""


@dataclass(frozen=True)
class DetectionDocument:
    """A config of Table 2: its short name and its row."""

    name: str
    row: Row

    @property
    def path(self) -> str:
        """coco/table2_conv_full.yaml."""
        return f"coco/table2_{self.name}.yaml"

    def text(self) -> str:
        """The whole file."""
        return f"{self.header()}task: detection\nmodel:\n  name: {self.row.cells.model}\n{RECIPE}"

    def header(self) -> str:
        """Comments before the settings."""
        lines = [f"# COCO: RetinaNet with ResNet-50, {self.row.cells.label}.", "# Row of Table 2.", "#"]
        for name, text in self.entries().items():
            wrapped = [text] if text.startswith(("sasa", "torchrun", "srun")) else textwrap.wrap(text, 105)
            lines += [f"# {(name + ':') if not number else '':<10} {part}" for number, part in enumerate(wrapped)]
        return "\n".join(lines) + "\n#\n# Written by configs/make.py: change src/sasa/reproduce/ and run it again.\n"

    def entries(self) -> dict[str, str]:
        """What the header says, by its first word."""
        cells, ours = self.row.cells, self.row.ours
        whole, half, three_quarters, small, medium, large = cells.ap
        words = f"detect train --config configs/{self.path} --data DIR --output runs/coco/{self.name}"
        return {
            "Question": "what is attention worth in a detector's backbone, and in its heads?",
            "Paper": f"{cells.flops:.0f} B FLOPS, {cells.parameters} M parameters; mAP {whole}, at 50 {half}, at 75 "
            f"{three_quarters}; small {small}, medium {medium}, large {large}",
            "Counted": f"{ours.flops_calibrated / 1e9:.1f} B FLOPS (calibrated; {ours.flops_simple / 1e9:.1f} simple), "
            f"{ours.parameters / MILLION:.2f} M parameters, for 90 classes as the paper counts; COCO's files have 80",
            "Cost": f"3 x {ours.flops / 1e9:.3g}e9 FLOPS (products of a forward pass) x 118,287 pictures x 150 epochs "
            f"= {3 * ours.flops * 118_287 * 150:.2e} FLOPS; hours: not measured by us",
            "Hardware": "one machine of 8 GPUs, 8 pictures on each",
            "Dry run": f"sasa detect train --config configs/{self.path} --data DIR --dry-run",
            "Command": f"torchrun --nproc-per-node 8 -m sasa {words}",
            "Slurm": f"srun --nodes 1 --ntasks-per-node 8 --gpus-per-node 8 --kill-on-bad-exit=1 sasa {words}",
            "Seeds": "others with --set run.seed=1 and --output ...-seed1, and so on",
            "Measured": "not measured by us",
        }


def detection_documents() -> list[DetectionDocument]:
    """The five rows of Table 2, in the paper's order."""
    rows = tables("2")[0].rows
    assert len(rows) == len(CELLS["2"]) == len(NAMES)
    return [DetectionDocument(name, row) for name, row in zip(NAMES, rows, strict=True)]
