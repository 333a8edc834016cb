"""The paper's tables and claims beside counts of the networks that sasa builds for them."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from sasa.counting.count import Count, count
from sasa.counting.paper_cells import CELLS, CONVSTEM, FULL, SIDE, SIDES, TITLES, Cells
from sasa.errors import ArgumentError
from sasa.markdown import markdown_table
from sasa.models import create_model
from sasa.nn import LocalAttention2d

BILLION, MILLION = 1e9, 1e6


@dataclass(frozen=True)
class CountedRow:
    """The paper's cells of one row, and the count of the network built for it."""

    cells: Cells
    ours: Count

    @property
    def differences(self) -> dict[str, float | None]:
        """Our count relative to the paper's cell, in %: parameters (None without a cell) and FLOPs by convention."""
        cells, ours = self.cells, self.ours
        return {
            "parameters": cells.parameters and _percent(ours.parameters / MILLION, cells.parameters),
            "flops_simple": _percent(ours.flops_simple / BILLION, cells.flops),
            "flops_calibrated": _percent(ours.flops_calibrated / BILLION, cells.flops),
        }

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values: the paper's in billions, millions and %; ours in units; differences in %."""
        paper = {**asdict(self.cells), "ap": list(self.cells.ap)}
        del paper["name"]
        row = {name: paper.pop(name) for name in ("label", "model", "options")}
        units = ("parameters", "flops", "flops_simple", "flops_calibrated")
        ours = {name: getattr(self.ours, name) for name in units}
        return {**row, "paper": paper, "ours": ours, "difference_percent": self.differences}


@dataclass(frozen=True)
class CountedTable:
    """One table of the paper: its number as text, its title, and its rows in the paper's order."""

    name: str
    title: str
    rows: tuple[CountedRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values."""
        return {"table": self.name, "title": self.title, "rows": [row.to_dict() for row in self.rows]}


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper with the values it states and those we count, in `unit`."""

    sentence: str
    unit: str
    values: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values."""
        return asdict(self)


def tables(names: Iterable[str | int] | str | int | None = None) -> list[CountedTable]:
    """Count the networks of tables of the paper.

    Args:
        names: "1" or "table1" or 1, one or several, in the order of the result; by default all.

    Raises:
        ArgumentError: (a ValueError) there is no such table.

    >>> [row.cells.label for row in sasa.counting.tables("6")[0].rows]
    ['q.r', 'q.k + q.r']
    """
    found = []
    for name in _wanted(names, CELLS):
        counts = [_counted(cells.model, SIDES.get(name, SIDE), **cells.options) for cells in CELLS[name]]
        found.append(CountedTable(name, TITLES[name], tuple(map(CountedRow, CELLS[name], counts))))
    return found


def _wanted(names: Iterable[str | int] | str | int | None, every: Iterable[str]) -> list[str]:
    """Return the tables' short names; `every` for None."""
    if names is None:
        return list(every)
    wanted = []
    for name in [names] if isinstance(names, str | int) else names:
        short = str(name).lower().removeprefix("table").strip()
        if short not in CELLS:
            raise ArgumentError(f"there is no table {name!r}; the tables are {', '.join(CELLS)}")
        wanted.append(short)
    return wanted


@functools.cache
def _counted(model: str, side: int = SIDE, **options: Any) -> Count:
    """Count a network, built on the meta device; many rows have the same one."""
    with torch.device("meta"):
        return count(create_model(model, **options), side)


def claims(names: Iterable[str | int] | str | int | None = None) -> list[Claim]:
    """Compute the paper's claims about cost from our counts and from its own cells.

    Args:
        names: tables, as in `tables`; by default all claims, including the one that belongs to no table.
    """
    return [make() for name in _wanted(names, CLAIMS) for make in CLAIMS.get(name, ())]


def _fewer(table: str, what: str, stated: float, model: str, baseline_model: str, sentence: str) -> Claim:
    """Compute a saving in %: stated, from the paper's cells, and counted."""
    side = SIDES.get(table, SIDE)
    ours, baseline = _counted(model, side), _counted(baseline_model, side)
    cells = {row.model: getattr(row, what) for row in CELLS[table]}
    values = {"stated": stated, "from the paper's cells": -_percent(cells[model], cells[baseline_model])}
    counted = {"simple": "flops_simple", "calibrated": "flops_calibrated"} if what == "flops" else {"ours": what}
    for name, unit in counted.items():
        values[name] = -_percent(getattr(ours, unit), getattr(baseline, unit))
    label = "FLOPs" if what == "flops" else what
    return Claim(f"{sentence.format(f'{stated} % fewer {label}')} (Table {table})", "%", values)


def _full_resnet(what: str, stated: float) -> Claim:
    """Claims of the abstract and Section 4.1."""
    return _fewer("1", what, stated, FULL, "resnet50", "ResNet-50 with full attention has {} than its baseline")


def _detector(what: str, stated: float, model: str, which: str) -> Claim:
    """Claims of the abstract and Section 4.2."""
    return _fewer("2", what, stated, model, "retinanet_resnet50", f"RetinaNet with {which} has {{}} than its baseline")


def _pyramid() -> Claim:
    """Claim of A.3 that attention replaces the pyramid's convolutions; Table 2 fits only if it does not."""
    cells = next(row for row in CELLS["2"] if row.model == f"retinanet_{CONVSTEM}_attnheads")
    heads, whole = (_counted(f"retinanet_{CONVSTEM}_{kind}", SIDES["2"]) for kind in ("attnheads", "attn"))
    values = {"the paper's cell": cells.parameters or 0.0}
    values |= {"attention in the heads": heads.parameters / MILLION, "in the pyramid too": whole.parameters / MILLION}
    sentence = "RetinaNet with attention in place of the convolutions of heads and pyramid (A.3) is a row of Table 2"
    return Claim(sentence, "M parameters", values)


def _constant_parameters() -> Claim:
    """Claim in the caption of Table 4; k changes only the k * d relative embeddings of a layer."""
    options = [cells.options for cells in CELLS["4"]]
    counted = {o.get("kernel_size", 7): _counted(CONVSTEM, **o).parameters / MILLION for o in options}
    values = {f"k = {k}": parameters for k, parameters in counted.items()}
    return Claim("The number of parameters is constant for all k (Table 4)", "M", values)


def _same_cost() -> Claim:
    """Claim of Section 2.2: thousand multiply-adds of one pixel."""
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
    """Return by how many % `ours` is larger than `paper`."""
    return 100 * (ours / paper - 1)


HEADINGS = ("", "top-1 %", "params M", "ours", "diff", "FLOPs B", "simple", "diff", "calibrated", "diff")


LEGEND = """\
Each cell of the paper is followed by the count of the network built here, and by the difference in %. The paper does
not say how it counts FLOPs: "simple" counts multiply-adds, "calibrated" element-wise operations as well."""


def to_text(tables: Sequence[CountedTable], claims: Iterable[Claim] = ()) -> str:
    """Format tables and claims as Markdown."""
    parts = [LEGEND] if tables else []
    parts += [
        f"Table {table.name}. {table.title}\n\n{markdown_table([_headings(table), *map(_cells, table.rows)])}"
        for table in tables
    ]
    for claim in claims:
        values = [(name, f"{value:.4g} {claim.unit}") for name, value in claim.values.items()]
        parts.append(f"{claim.sentence}\n\n{markdown_table([('', 'value'), *values])}")
    return "\n\n".join(parts)


def _headings(table: CountedTable) -> tuple[str, ...]:
    return tuple("mAP %" if heading == "top-1 %" and table.name == "2" else heading for heading in HEADINGS)


def _cells(row: CountedRow) -> tuple[str, ...]:
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
