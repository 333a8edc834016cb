"""The paper's tables with our counts beside them, and its claims computed from those counts.

Conventions: sasa/counting/conventions.py; the cells: sasa/counting/paper_cells.py.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from sasa.counting.count import Count, count
from sasa.counting.paper_cells import CELLS, CONVSTEM, FULL, SIDE, SIDES, TITLES, Cells
from sasa.errors import ArgumentError
from sasa.models import create_model
from sasa.nn import LocalAttention2d

BILLION, MILLION = 1e9, 1e6


@dataclass(frozen=True)
class Row:
    """The paper's cells of one row and the count of the network that we build for it."""

    cells: Cells
    ours: Count

    @property
    def differences(self) -> dict[str, float | None]:
        """Ours against the paper's cell in %, for parameters (None without a cell) and FLOPS in both conventions."""
        cells, ours = self.cells, self.ours
        return {
            "parameters": cells.parameters and _percent(ours.parameters / MILLION, cells.parameters),
            "flops_simple": _percent(ours.flops_simple / BILLION, cells.flops),
            "flops_calibrated": _percent(ours.flops_calibrated / BILLION, cells.flops),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: paper in billions, millions and %; ours in units; differences in %."""
        paper = {**asdict(self.cells), "ap": list(self.cells.ap)}
        row = {name: paper.pop(name) for name in ("label", "model", "options")}
        units = ("parameters", "flops", "flops_simple", "flops_calibrated")
        ours = {name: getattr(self.ours, name) for name in units}
        return {**row, "paper": paper, "ours": ours, "difference_percent": self.differences}


@dataclass(frozen=True)
class Table:
    """One table of the paper: its number as text, what it compares, its rows in the paper's order."""

    name: str
    title: str
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"table": self.name, "title": self.title, "rows": [row.to_dict() for row in self.rows]}


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper with numbers that bear on it, all in `unit`: what is stated, and what is counted."""

    sentence: str
    unit: str
    values: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def tables(names: Iterable[str | int] | str | int | None = None) -> list[Table]:
    """Tables of the paper with our counts, in the order asked for; all of them without names.

    Args:
        names: "1" or "table1" or 1, one or several.

    Raises:
        ArgumentError: (a ValueError) a table that is not here, with those that are.

    >>> [row.cells.label for row in sasa.counting.tables("6")[0].rows]
    ['q.r', 'q.k + q.r']
    """
    if isinstance(names, str | int):
        names = [names]
    wanted = [_table_name(name) for name in names] if names is not None else list(CELLS)
    return [Table(name, TITLES[name], tuple(_row(name, cells) for cells in CELLS[name])) for name in wanted]


def _table_name(name: str | int) -> str:
    short = str(name).lower().removeprefix("table").strip()
    if short not in CELLS:
        raise ArgumentError(f"table {name!r} is not one of those counted here: {', '.join(CELLS)}")
    return short


def _row(table: str, cells: Cells) -> Row:
    return Row(cells, _counted(cells.model, SIDES.get(table, SIDE), **cells.options))


@functools.cache
def _counted(model: str, side: int = SIDE, **options: Any) -> Count:
    """The count of a network; many rows share one. It is built without memory, so it has no weights to draw."""
    with torch.device("meta"):
        return count(create_model(model, **options), side)


def claims(names: Iterable[str | int] | str | int | None = None) -> list[Claim]:
    """What the paper says about costs, beside what our counts and its own cells give.

    Args:
        names: tables as `tables` takes them; without names all claims, also the one that belongs to no table.
    """
    if isinstance(names, str | int):
        names = [names]
    wanted = [_table_name(name) for name in names] if names is not None else [*CLAIMS]
    return [make() for name in wanted for make in CLAIMS.get(name, ())]


def _fewer(table: str, what: str, stated: float, model: str, baseline_model: str, sentence: str) -> Claim:
    """A saving, in %: as stated, from the paper's cells, and counted."""
    side = SIDES.get(table, SIDE)
    ours, baseline = _counted(model, side), _counted(baseline_model, side)
    cells = {row.model: getattr(row, what) for row in CELLS[table]}
    values = {"stated": stated, "from the paper's cells": -_percent(cells[model], cells[baseline_model])}
    counted = {"simple": "flops_simple", "calibrated": "flops_calibrated"} if what == "flops" else {"ours": what}
    for name, unit in counted.items():
        values[name] = -_percent(getattr(ours, unit), getattr(baseline, unit))
    label = "FLOPS" if what == "flops" else what
    return Claim(f"{sentence.format(f'{stated} % fewer {label}')} (Table {table})", "%", values)


def _full_resnet(what: str, stated: float) -> Claim:
    """Abstract and Section 4.1."""
    return _fewer("1", what, stated, FULL, "resnet50", "ResNet-50 with full attention has {} than its baseline")


def _detector(what: str, stated: float, model: str, which: str) -> Claim:
    """Abstract and Section 4.2."""
    return _fewer("2", what, stated, model, "retinanet_resnet50", f"RetinaNet with {which} has {{}} than its baseline")


def _pyramid() -> Claim:
    """A.3 says that attention replaces the pyramid's convolutions too; the cells fit only where it does not."""
    cells = next(row for row in CELLS["2"] if row.model == f"retinanet_{CONVSTEM}_attnheads")
    heads, whole = (_counted(f"retinanet_{CONVSTEM}_{kind}", SIDES["2"]) for kind in ("attnheads", "attn"))
    values = {"the paper's cell": cells.parameters or 0.0}
    values |= {"attention in the heads": heads.parameters / MILLION, "in the pyramid too": whole.parameters / MILLION}
    sentence = "RetinaNet with attention in place of the convolutions of heads and pyramid (A.3) is a row of Table 2"
    return Claim(sentence, "M parameters", values)


def _constant_parameters() -> Claim:
    """The caption of Table 4; k * d relative values a layer are all that k changes."""
    options = [cells.options for cells in CELLS["4"]]
    counted = {o.get("kernel_size", 7): _counted(CONVSTEM, **o).parameters / MILLION for o in options}
    values = {f"k = {k}": parameters for k, parameters in counted.items()}
    return Claim("The number of parameters is constant for all k (Table 4)", "M", values)


def _same_cost() -> Claim:
    """Section 2.2: multiply-adds of one pixel, in thousands; layers on one pixel, whose window has all its keys."""
    with torch.device("meta"):
        layers: dict[str, nn.Module] = {
            "3 x 3 convolution": nn.Conv2d(128, 128, 3, padding=1, bias=False),
            "attention, k = 19, q.k": LocalAttention2d(128, 128, 19, position="none"),
            "attention, k = 19, q.k + q.r": LocalAttention2d(128, 128, 19),
        }
    values = {name: count(layer, 1).macs / 1e3 for name, layer in layers.items()}
    sentence = "With 128 channels a 3 x 3 convolution costs as much as attention with k = 19 (Section 2.2)"
    return Claim(sentence, "thousand multiply-adds a pixel", values)


CLAIMS: dict[str, tuple[Callable[[], Claim], ...]] = {
    "1": (lambda: _full_resnet("flops", 12), lambda: _full_resnet("parameters", 29)),
    "2": (
        lambda: _detector("parameters", 22, f"retinanet_{CONVSTEM}", "an attention backbone"),
        lambda: _detector("parameters", 34, f"retinanet_{FULL}_attnheads", "full attention"),
        lambda: _detector("flops", 39, f"retinanet_{FULL}_attnheads", "full attention"),
        _pyramid,
    ),
    "4": (_constant_parameters,),
    "": (_same_cost,),
}


def _percent(ours: float, paper: float) -> float:
    """How much `ours` is above `paper`, in % of `paper`."""
    return 100 * (ours / paper - 1)


HEADINGS = ("", "top-1 %", "params M", "ours", "diff", "FLOPS B", "simple", "diff", "calibrated", "diff")


def to_text(tables: Iterable[Table], claims: Iterable[Claim] = ()) -> str:
    """Aligned Markdown: each of the paper's cells, ours beside it and the difference in %; then the claims."""
    parts = [
        f"Table {table.name}. {table.title}\n\n{_grid([_headings(table), *map(_cells, table.rows)])}"
        for table in tables
    ]
    for claim in claims:
        values = [(name, f"{value:.4g} {claim.unit}") for name, value in claim.values.items()]
        parts.append(f"{claim.sentence}\n\n{_grid([('', 'value'), *values])}")
    return "\n\n".join(parts)


def _headings(table: Table) -> tuple[str, ...]:
    return tuple("mAP %" if heading == "top-1 %" and table.name == "2" else heading for heading in HEADINGS)


def _cells(row: Row) -> tuple[str, ...]:
    cells, ours = row.cells, row.ours
    off = {name: "" if value is None else f"{value:+.2f} %" for name, value in row.differences.items()}
    return (
        cells.label,
        f"{cells.ap[0] if cells.top1 is None else cells.top1:.1f}",
        "" if cells.parameters is None else f"{cells.parameters:.1f}",
        f"{ours.parameters / MILLION:.2f}",
        off["parameters"],
        f"{cells.flops:.1f}",
        f"{ours.flops_simple / BILLION:.2f}",
        off["flops_simple"],
        f"{ours.flops_calibrated / BILLION:.2f}",
        off["flops_calibrated"],
    )


def _grid(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table whose columns also line up as plain text: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
