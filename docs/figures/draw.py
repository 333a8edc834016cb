"""Draws the figures of docs/how_it_works.md as SVG, in the colours of the reader's system: python docs/figures/draw.py.

The weights in a figure are computed from its logits by the equation that it shows.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

STYLE = """
  text { font: 15px system-ui, sans-serif; fill: #24292f }
  .small { font-size: 13px }
  .math { font-family: Cambria, "STIX Two Math", "Latin Modern Math", serif; font-size: 18px; font-style: italic }
  .title { font-weight: 600 }
  .middle { text-anchor: middle }
  .end { text-anchor: end }
  .cell { fill: none; stroke: #8c959f }
  .line { fill: none; stroke: #57606a; stroke-width: 1.5 }
  .head { fill: #57606a }
  .blue { fill: #3f51b5 } .red { fill: #c2410c } .green { fill: #15803d } .grey { fill: #8c959f }
  .frame { fill: none; stroke: #3f51b5; stroke-width: 2.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6e9ef }
    .cell { stroke: #6e7681 }
    .line { stroke: #b1bac4 } .head { fill: #b1bac4 }
    .blue { fill: #8c9eff } .red { fill: #fb923c } .green { fill: #4ade80 } .frame { stroke: #8c9eff }
  }
"""
Grid = Sequence[Sequence[float]]


class Figure:
    """An SVG image that is written element by element; lengths in pixels.

    Args:
        width: of the image.
        height: of the image.
        title: for readers who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
        ]

    def box(self, x: float, y: float, width: float, height: float, style: str, opacity: float = 1.0) -> None:
        """Draw a rectangle."""
        shade = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{style}"{shade}/>')

    def text(self, x: float, y: float, words: str, style: str = "") -> None:
        """Write a line; in the style "math", what follows "_" up to a space or a bracket is a subscript."""
        words = words.replace("-", "\N{MINUS SIGN}")
        if "math" in style:
            low = '<tspan dy="4" font-size="12">'
            words = re.sub(r"_([^ ()]+)", rf'{low}\1</tspan><tspan dy="-4">&#8203;</tspan>', words)
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{style}">{words}</text>')

    def arrow(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Draw an arrow from (x0, y0) to (x1, y1)."""
        angle = math.atan2(y1 - y0, x1 - x0)
        tips = [(x1 - 9 * math.cos(angle + turn), y1 - 9 * math.sin(angle + turn)) for turn in (-0.4, 0.4)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x1, y1), *tips])
        self.parts.append(f'<path d="M{x0:g} {y0:g}L{x1:g} {y1:g}" class="line"/>')
        self.parts.append(f'<polygon points="{points}" class="head"/>')

    def grid(self, x: float, y: float, cell: float, shades: Grid, style: str) -> None:
        """Draw a grid of cells shaded from 0 to 1."""
        for i, row in enumerate(shades):
            for j, shade in enumerate(row):
                self.box(x + j * cell, y + i * cell, cell, cell, style, shade)
                self.box(x + j * cell, y + i * cell, cell, cell, "cell")

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text("\n".join([*self.parts, "</svg>\n"]))


def softmax(logits: Grid) -> Grid:
    """Return the softmax over all cells."""
    total = sum(math.exp(logit) for row in logits for logit in row)
    return [[math.exp(logit) / total for logit in row] for row in logits]


def shaded(values: Grid) -> Grid:
    """Scale values to shades from 0.05 to 0.8."""
    flat = [value for row in values for value in row]
    low, high = min(flat), max(flat)
    return [[0.05 + 0.75 * (value - low) / (high - low) for value in row] for row in values]


CONTENT = [
    [-0.6, -0.2, 0.1, 1.0, 1.4],
    [-0.4, 0.0, 0.6, 1.5, 0.9],
    [-0.3, 0.3, 1.2, 1.0, 0.2],
    [0.2, 1.1, 1.3, 0.1, -0.4],
    [0.9, 1.0, 0.2, -0.5, -0.6],
]
ROW = [-0.9, 0.5, 1.0, 0.5, -0.9]
COLUMN = [-0.8, 0.4, 0.9, 0.6, -0.6]


POSITION = [[row + column for column in COLUMN] for row in ROW]
LOGITS = [[c + p for c, p in zip(*rows, strict=True)] for rows in zip(CONTENT, POSITION, strict=True)]


def attention() -> Figure:
    """Draw Eq. 3 for one pixel and one head, then the heads."""
    figure = Figure(600, 828, "Local attention with relative positions, for one pixel, and its heads")
    draw_projections(figure)
    draw_logits(figure)
    draw_weighted_sum(figure)
    draw_heads(figure)
    return figure


def draw_projections(figure: Figure) -> None:
    """Draw the map, the window, and q, k and v."""
    figure.text(16, 22, "1. Queries, keys and values", "title")
    figure.grid(16, 38, 20, [[0.04] * 10 for _ in range(8)], "grey")
    figure.box(76, 58, 100, 100, "blue", 0.15)
    figure.box(76, 58, 100, 100, "frame")
    figure.box(116, 98, 20, 20, "red")
    figure.text(16, 222, "the feature map x; the window of", "small")
    figure.text(16, 240, "k x k = 5 x 5 pixels around pixel (i, j)", "small")
    figure.arrow(138, 108, 300, 62)
    figure.text(308, 68, "q_ij = W_Q x_ij", "math")
    figure.text(440, 68, "the query", "small")
    figure.arrow(178, 118, 300, 118)
    figure.text(308, 123, "k_ab = W_K x_ab", "math")
    figure.text(440, 123, "25 keys", "small")
    figure.arrow(178, 140, 300, 170)
    figure.text(308, 178, "v_ab = W_V x_ab", "math")
    figure.text(440, 178, "25 values", "small")


def draw_logits(figure: Figure) -> None:
    """Draw both terms of the logits, and the offsets."""
    figure.text(16, 282, "2. Logits: content plus position", "title")
    figure.text(85, 312, "q_ij · k_ab", "math middle")
    figure.grid(20, 348, 26, shaded(CONTENT), "blue")
    figure.text(164, 420, "+", "title")
    figure.text(285, 312, "q_ij · r_a-i,b-j", "math middle")
    figure.grid(220, 348, 26, shaded(POSITION), "green")
    for n, offset in enumerate(("-2", "-1", "0", "1", "2")):
        figure.text(212, 366 + 26 * n, offset, "small end")
        figure.text(233 + 26 * n, 341, offset, "small middle")
    figure.text(366, 362, "q[first half] · row[a - i]", "small")
    figure.text(366, 382, "+ q[second half] · col[b - j]", "small")
    figure.text(366, 414, "A row and a column offset", "small")
    figure.text(366, 432, "have an embedding each:", "small")
    figure.text(366, 450, "2 k embeddings, not k x k.", "small")


def draw_weighted_sum(figure: Figure) -> None:
    """Draw the weights of the window and the output."""
    figure.text(16, 522, "3. Softmax over the window, then the weighted sum of values", "title")
    weights = softmax(LOGITS)
    figure.grid(20, 538, 26, shaded(weights), "red")
    for n in range(25):
        percent = f"{100 * weights[n // 5][n % 5]:.0f}"
        figure.text(33 + 26 * (n % 5), 556 + 26 * (n // 5), percent, "small middle")
    figure.text(85, 688, "weights in %", "small middle")
    figure.arrow(164, 603, 250, 603)
    figure.text(262, 609, "y_ij = ∑_ab softmax_ab(logit) v_ab", "math")
    figure.text(262, 637, "the same matrices and embeddings for all pixels", "small")


def draw_heads(figure: Figure) -> None:
    """Draw the split of the channels."""
    figure.text(16, 726, "4. Heads: groups of channels, each with embeddings of its own", "title")
    for n, style in enumerate(("blue", "red", "green", "grey")):
        figure.box(20 + 130 * n, 742, 130, 26, style, 0.45)
        figure.box(20 + 130 * n, 742, 130, 26, "cell")
        figure.text(85 + 130 * n, 760, f"head {n + 1}", "small middle")
    figure.text(20, 792, "The channels of q, k, v and y. Each head computes its own weights", "small")
    figure.text(20, 812, "from its channels; y is the concatenation of the heads.", "small")


EMBEDDINGS = [[1.6, 0.4, -0.6, -1.4], [-0.8, 1.4, 0.3, -0.9], [-0.9, -0.6, 1.5, 1.2]]


def mixture(a: int, b: int) -> list[float]:
    """Return p(a, b, m) for three matrices, from made-up products of embeddings."""
    return list(softmax([[embedding[a] + embedding[b] for embedding in EMBEDDINGS]])[0])


def stem() -> Figure:
    """Draw the attention stem: blocks, values mixed by position, attention in the block, max pool."""
    figure = Figure(600, 604, "The attention stem: values that depend on the position in the block")
    draw_blocks(figure)
    draw_mixture(figure)
    draw_pool(figure)
    return figure


def draw_blocks(figure: Figure) -> None:
    """Draw the image's blocks."""
    figure.text(16, 22, "1. The image in blocks of 4 x 4 pixels", "title")
    figure.grid(20, 38, 13, [[0.04] * 12 for _ in range(12)], "grey")
    for i in range(3):
        for j in range(3):
            figure.box(20 + 52 * j, 38 + 52 * i, 52, 52, "line")
    figure.box(72, 90, 52, 52, "frame")
    figure.text(210, 84, "Every pixel of a block attends to the 16 pixels", "small")
    figure.text(210, 104, "of its block: Eq. 3 with this window, 4 heads.", "small")
    figure.text(210, 136, "RGB values alone say little, so the values are", "small")
    figure.text(210, 156, "made to depend on the position in the block:", "small")


def draw_mixture(figure: Figure) -> None:
    """Draw p(a, b, m) as bars for each position of a block."""
    figure.text(16, 242, "2. Values: M matrices, mixed by position", "title")
    figure.text(16, 272, "v_ab = ( ∑_m p(a, b, m) W_V,m ) x_ab", "math")
    for a in range(4):
        for b in range(4):
            left, top = 20 + 44 * b, 292 + 44 * a
            figure.box(left, top, 44, 44, "cell")
            for m, (style, share) in enumerate(zip(("blue", "red", "green"), mixture(a, b), strict=True)):
                figure.box(left + 7 + 11 * m, top + 40 - 34 * share, 8, 34 * share, style, 0.8)
    figure.text(222, 322, "p(a, b, m) for M = 3 matrices (networks have 5):", "small")
    figure.text(222, 342, "a softmax over m of products of learned row,", "small")
    figure.text(222, 362, "column and mixture embeddings. It depends on", "small")
    figure.text(222, 382, "the position only, so the matrices are mixed", "small")
    figure.text(222, 402, "once for all blocks. All heads share them.", "small")


def draw_pool(figure: Figure) -> None:
    """Draw a block and the pixel that it becomes."""
    figure.text(16, 512, "3. Batch norm, then the maximum of each block", "title")
    figure.grid(20, 528, 13, [[0.04] * 4 for _ in range(4)], "grey")
    figure.box(20, 528, 52, 52, "frame")
    figure.arrow(84, 554, 150, 554)
    figure.box(162, 541, 26, 26, "blue", 0.6)
    figure.box(162, 541, 26, 26, "cell")
    figure.text(206, 559, "224 x 224 pixels give a map of 56 x 56.", "small")


if __name__ == "__main__":
    here = Path(__file__).parent
    attention().write(here / "attention.svg")
    stem().write(here / "stem.svg")
