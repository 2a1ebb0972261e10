"""Tables in Markdown, aligned so that they read as text too. Needs no torch."""

from collections.abc import Iterable, Sequence

from attnbench.escaping import markdown_cell


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table without a line break at its end; bars, breaks and tags inside a cell are escaped.

    Args:
        header: of the columns.
        rows: cells of each, as many as the header has.
        left: columns that are words, aligned at their left; the others are numbers, at their right.
    """
    cells = [[markdown_cell(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def padded(row: Sequence[str]) -> str:
        return _line(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )

    return "\n".join([padded(cells[0]), _rule(widths, left), *map(padded, cells[1:])])


def head(header: Sequence[str], left: Sequence[int] = (0,)) -> str:
    """The first two lines of a table whose rows are told one by one, as they are found; see :func:`row`."""
    cells = [markdown_cell(cell) for cell in header]
    return f"{_line(cells)}\n{_rule([len(cell) for cell in cells], left)}"


def row(cells: Iterable[str]) -> str:
    """One row, not aligned with the others; what is inside a cell is escaped as in :func:`table`."""
    return _line(map(markdown_cell, cells))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(widths: Sequence[int], left: Sequence[int]) -> str:
    rules = (
        "-" * (width + 2) if column in left else "-" * (width + 1) + ":"
        for column, width in enumerate(widths)
    )
    return f"|{'|'.join(rules)}|"
