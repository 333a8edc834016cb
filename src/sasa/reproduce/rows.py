"""The rows of the paper's tables as networks to train."""

from dataclasses import dataclass

from sasa.counting.paper_cells import CELLS, TITLES, Cells
from sasa.errors import UsageError
from sasa.reproduce.setups import DETECTION_DATASETS, FIGURE, SETUPS, Options

DETECTION = "2"  # the table of detection; all others are of classification
BASELINE = "baseline"  # of the same depth or width


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper; its rows are in `CELLS`.

    Args:
        question: the question that the table answers.
        beside: name of the row that the others are compared with.
        not_small: names of rows that are left out at the scale "small".
    """

    question: str
    beside: str
    not_small: tuple[str, ...] = ()


TABLES = {
    "1": PaperTable(
        "what does attention do in place of every spatial convolution, and of the stem, at each depth?",
        BASELINE,
        # All small networks have the same stem, so two of the attention networks are equal: one is left out.
        not_small=tuple(cells.name for cells in CELLS["1"] if cells.name not in ("r26_baseline", "r26_full")),
    ),
    DETECTION: PaperTable("what is attention worth in a detector's backbone, and in its heads?", "conv_baseline"),
    "3": PaperTable("which groups of layers should be convolution, and which attention?", "c1234"),
    "4": PaperTable(
        "how wide must the window of attention be?",
        "k7",
        not_small=("k9", "k11"),  # wider than most of the feature maps, which are 16, 8, 4 and 2 pixels wide
    ),
    "5": PaperTable("how much do positions help attention?", "relative"),
    "6": PaperTable("is the relative position alone enough?", "qk_qr"),
    "7": PaperTable("must the values of the attention stem depend on the position?", "mixture"),
    FIGURE: PaperTable("how do accuracy, FLOPS and parameters grow with the width?", BASELINE),
}


@dataclass(frozen=True)
class TableRow:
    """One network of a table.

    Args:
        table: of the paper, "1" to "7" or "figure5".
        name: short, for --row and for directories.
        label: its name in the paper.
        model: the section of a config: `name`, and options of `sasa.create_model`.
        cells: the paper's numbers; None where it prints none.
        beside: the name of the row that it is compared with, None for that row itself.
    """

    table: str
    name: str
    label: str
    model: Options
    cells: Cells | None
    beside: str | None


def table_name(text: str) -> str:
    """Normalise the name of a table: "4", "table4" and "Table 4" give "4"; "figure 5" gives "figure5".

    Raises:
        UsageError: no such table; the message lists all tables.
    """
    name = text.lower().replace(" ", "").removeprefix("table")
    if name not in TABLES:
        raise UsageError(f"there is no table {text!r} to reproduce: choose one of {', '.join(TABLES)}")
    return name


def tables_of(dataset: str) -> tuple[str, ...]:
    """Return the tables that can be run on a data set: Table 2 on one with boxes, the others on one with classes."""
    return tuple(table for table in TABLES if (table == DETECTION) == (dataset in DETECTION_DATASETS))


def title(table: str) -> str:
    """Return a table's number and subject, in a line."""
    if table == FIGURE:
        return "Figure 5. Accuracy over parameters and FLOPS at several widths"
    return f"Table {table}. {TITLES[table]}"


def rows(table: str, dataset: str, scale: str) -> tuple[TableRow, ...]:
    """Return the rows of a table for a data set, in the paper's order.

    Raises:
        UsageError: a table of detection on images without boxes, or the other way round.
    """
    if table not in tables_of(dataset):
        needs, has = ("boxes", "classes") if table == DETECTION else ("classes", "boxes")
        raise UsageError(f"table {table} needs images with {needs}; those of {dataset} have {has}")
    made = _widths(dataset, scale) if table == FIGURE else _table(table, dataset, scale)
    names = {row.name for row in made}
    assert all(row.beside in names for row in made if row.beside)
    return made


def _table(table: str, dataset: str, scale: str) -> tuple[TableRow, ...]:
    network, described = SETUPS[dataset, scale].network, TABLES[table]
    return tuple(
        TableRow(table, cells.name, cells.label, network(cells, table), cells, _beside(described, cells.name))
        for cells in CELLS[table]
        if scale != "small" or cells.name not in described.not_small
    )


def _widths(dataset: str, scale: str) -> tuple[TableRow, ...]:
    """Return the three kinds of networks of Table 1 (two if they share their stem) at several widths."""
    setup, made = SETUPS[dataset, scale], []
    kinds = {cells.name.partition("_")[2]: cells for cells in CELLS["1"]}  # of ResNet-50, the last of each kind
    for width in setup.widths:
        for kind, cells in kinds.items():
            if scale == "small" and kind == "convstem":
                continue
            name = f"w{round(1000 * width):04d}_{kind}"
            label = f"{cells.label.partition(', ')[2]}, width {width:g}"
            model = {**setup.network(cells, FIGURE), "width": width}
            made.append(TableRow(FIGURE, name, label, model, None, _beside(TABLES[FIGURE], name)))
    return tuple(made)


def _beside(table: PaperTable, name: str) -> str | None:
    other = f"{name.partition('_')[0]}_{BASELINE}" if table.beside == BASELINE else table.beside
    return None if name == other else other
