"""Markdown tables whose columns also line up as plain text."""

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells: the first row is the heading; the first column is left-aligned, the others right.

    >>> print(markdown_table([["name", "ms"], ["a", "1.5"]]))
    | name |  ms |
    | ---- | --: |
    | a    | 1.5 |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    heading, *others = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, rule, *others))
