"""Small HTML tables of values, for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_ROWS = 12
"""Number of rows that are shown, followed by a count of the others."""

LEFT = "text-align: left"


def html_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()) -> str:
    """Write a table with a title, and sentences below it; everything is escaped.

    >>> html_table("a < b", ["name", "units"], [("conv1", 8)])[:45]
    '<table><caption style="text-align: left"><b>a'
    """
    head = "".join(f'<th style="{LEFT}">{escape(text)}</th>' for text in headings)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows[:MOST_ROWS])
    hidden = len(rows) - MOST_ROWS
    below = [*([f"and {hidden:,} more"] if hidden > 0 else []), *notes]
    foot = "".join(f"<div>{escape(text)}</div>" for text in below)
    caption = f'<caption style="{LEFT}"><b>{escape(title)}</b></caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}"


def _cells(row: Sequence[object]) -> str:
    """Align numbers to the right, with thousands separators."""
    return "".join(
        f'<td style="text-align: right">{value:,}</td>'
        if isinstance(value, int)
        else f'<td style="{LEFT}">{escape(str(value))}</td>'
        for value in row
    )
