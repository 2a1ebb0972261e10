"""Tables in Markdown, aligned so that they read as text too. Needs no torch."""

from collections.abc import Sequence

from attnbench.escaping import markdown_cell


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table without a line break at its end; bars, breaks and tags inside a cell are escaped.

    Args:
        header: of the columns.
        rows: cells of each, as many as the header has.
        left: columns that are words, aligned at their left; the others are numbers, at their right.
    """
    cells = [[markdown_cell(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        "-" * (width + 2) if column in left else "-" * (width + 1) + ":"
        for column, width in enumerate(widths)
    )
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])])
