"""The leaderboard as one HTML page that needs no other file: tables, and accuracy over MACs as a drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from secateurs.app.leaderboard.command import command
from secateurs.app.leaderboard.entries import Standing
from secateurs.app.leaderboard.text import HEADINGS, NOTE, cells

WIDTH, HEIGHT, MARGIN = 640, 300, 44
Scale = Callable[[float], float]

STYLE = """\
:root { color-scheme: light dark; --line: #8886; --point: #2a78b0; --control: #999; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.control td { color: var(--control); }
.scroll { overflow-x: auto; }
code { font-size: 13px; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; }
svg text { font-size: 11px; fill: currentColor; }
"""


def page(tables: Sequence[Standing], unfinished: int = 0, *, title: str = "Leaderboard") -> str:
    """The whole page; everything that comes from a run is escaped."""
    note = f"<p>Runs that are not finished, and in no table: {unfinished}.</p>" if unfinished else ""
    body = "\n".join(_section(table) for table in tables)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>\n{STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n<p>{escape(NOTE)}</p>\n{note}\n{body}\n</body>\n</html>\n"
    )


def _section(table: Standing) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in HEADINGS)
    lines = [
        f"<tr{' class=control' if entry.first.control else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells(entry))
        + "</tr>"
        for entry in table.entries
    ]
    empty = "<td>not run</td>" * (len(HEADINGS) - 1)
    lines += [f"<tr class=control><td>{escape(name)} (control)</td>{empty}</tr>" for name in table.missing]
    runs = "".join(
        f"<li>{escape(entry.name)}, seed {run.seed}, {escape(run.report.conditions.get('trained on', '?'))}, "
        f"{escape(run.report.conditions.get('versions', '?'))}:<br><code>{escape(command(run.keys))}</code></li>"
        for entry in table.entries
        for run in entry.runs
    )
    return (
        f"<h2>{escape(table.title)}</h2>\n{_drawing(table)}\n"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n' + "\n".join(lines) + "\n</tbody></table>"
        f"</div>\n<details><summary>How each was run</summary><ul>{runs}</ul></details>"
    )


def _drawing(table: Standing) -> str:
    """Plot accuracy of the chosen epoch over the remaining share of MACs; bars are standard deviations over seeds."""
    points = [(entry, entry.picked) for entry in table.entries if entry.picked is not None]
    if not points:
        return ""
    lows = [100 * (found.value - (found.spread or 0)) for _, found in points]
    highs = [100 * (found.value + (found.spread or 0)) for _, found in points]
    low, high = min(lows), max(highs)
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)

    def across(part: float) -> float:
        return MARGIN + min(part, 1.05) / 1.05 * (WIDTH - 2 * MARGIN)

    def up(percent: float) -> float:
        return HEIGHT - MARGIN - (percent - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    drawn = [_axes(low, high, across, up)]
    for entry, found in points:
        x, y, spread = across(entry.macs), up(100 * found.value), 100 * (found.spread or 0)
        color = "var(--control)" if entry.first.control else "var(--point)"
        bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(100 * found.value - spread):.1f}" '
        bar += f'y2="{up(100 * found.value + spread):.1f}" stroke="{color}"/>'
        told = escape(f"{entry.name}: {found} % at {100 * entry.macs:.1f} % of the MACs")
        drawn.append(f'{bar}<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"><title>{told}</title></circle>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-label="accuracy over MACs">{"".join(drawn)}</svg>'
    )


def _axes(low: float, high: float, across: Scale, up: Scale) -> str:
    """Draw grid lines and labels at every fifth of the MACs, and at five accuracies."""
    parts: list[str] = []
    for fifth in range(6):
        x = across(fifth / 5)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{20 * fifth} %</text>')
    for step in range(5):
        value = low + step * (high - low) / 4
        y = up(value)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{MARGIN - 4}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    middle = WIDTH / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">what remains of the MACs</text>')
    parts.append(f'<text x="{MARGIN - 34}" y="{MARGIN - 16}">test accuracy, %</text>')
    return "".join(parts)
