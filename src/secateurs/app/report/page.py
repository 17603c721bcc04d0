"""The page of a run: one self-contained HTML file, made from the report by a template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from secateurs.app.report.figures import Report
from secateurs.app.report.summary import ROWS, in_bytes, in_units
from secateurs.deploy import LayerTime
from secateurs.errors import InputError

TEMPLATE = "page.html.jinja"

WIDE, HIGH, EDGE = 640, 220, 56
"""Width, height and margins of the accuracy curve, in SVG units."""

SLOWEST = 12
"""Number of layers shown with their time; the others are summed."""


@final
@dataclass(frozen=True)
class Dot:
    """A stage on the curve: its position and its label."""

    name: str
    x: float
    y: float
    percent: str
    above: bool


@final
@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: lengths in percent of the longest, and labels."""

    name: str
    before: float
    after: float
    was: str
    now: str
    note: str = ""


def page(report: Report) -> bytes:
    """Return the report as one HTML page without external resources.

    Raises InputError if jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as missing:
        raise InputError(
            f"jinja2 makes the page and cannot be imported ({missing}); install it: "
            "python -m pip install 'secateurs[report]'"
        ) from missing
    loader = PackageLoader("secateurs.app.report", "")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters.update(units=in_units, bytes=in_bytes, percent=_percent, time=_time)
    filled = jinja.get_template(TEMPLATE).render(
        report=report,
        costs=_costs(report),
        widths=_widths(report),
        curve=_curve(report),
        line=" ".join(f"{dot.x},{dot.y}" for dot in _curve(report)),
        wide=WIDE,
        high=HIGH,
        layers=_layers(report),
        settings={k: v for k, v in report.settings.recipe.items() if v not in (None, [], {}, ())},
    )
    return filled.encode()


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _time(seconds: float) -> str:
    """Write seconds in the unit that leaves one to three digits before the point.

    >>> _time(0.0021), _time(0.000021), _time(2.1)
    ('2.10 ms', '21.0 µs', '2.10 s')
    """
    if seconds < 1e-3:
        return f"{1e6 * seconds:.1f} µs"
    return f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _costs(report: Report) -> list[Bar]:
    """Remaining share of each cost."""
    found: list[Bar] = []
    for name, read, write in ROWS:
        old, new = read(report.before), read(report.after)
        share = new / old if old else 0.0
        if name == "latency" and report.latency:
            share = report.latency[0].ratio
        found.append(Bar(name, 100.0, min(100.0, 100 * share), write(old), write(new), _percent(share)))
    return found


def _widths(report: Report) -> list[Bar]:
    """Every layer's channels, relative to the widest."""
    widest = max((width.before for width in report.widths), default=1)
    return [
        Bar(w.name, 100 * w.before / widest, 100 * w.after / widest, str(w.before), str(w.after)) for w in report.widths
    ]


def _curve(report: Report) -> list[Dot]:
    """The stages' accuracies, scaled to the height of the curve."""
    measured = [(stage, stage.accuracy) for stage in report.stages if stage.accuracy is not None]
    values = [value for _, value in measured]
    if not values:
        return []
    low, room = min(values), max(max(values) - min(values), 0.01)
    step = (WIDE - 2 * EDGE) / max(1, len(values) - 1)
    found: list[Dot] = []
    for place, (stage, value) in enumerate(measured):
        around = [values[k] for k in (place - 1, place + 1) if 0 <= k < len(values)]
        y = HIGH - EDGE - (HIGH - 2 * EDGE) * (value - low) / room
        above = not all(other > value for other in around)
        found.append(Dot(stage.name, round(EDGE + step * place, 1), round(y, 1), _percent(value), above))
    return found


def _layers(report: Report) -> list[Bar]:
    """The slowest layers of the dense network, each with its time after pruning; then the sum of the others."""
    if report.layers is None:
        return []
    before, after = report.layers.before, {layer.name: layer.seconds for layer in report.layers.after}
    shown = before[:SLOWEST]
    rows = [(layer.name, layer.kind, layer.seconds, after.pop(layer.name, None)) for layer in shown]
    if len(before) > SLOWEST or after:
        rows.append((f"{len(before) - len(shown)} others", "", _sum(before[SLOWEST:]), sum(after.values())))
    longest = max((max(was, now or 0.0) for _, _, was, now in rows), default=1.0) or 1.0
    found: list[Bar] = []
    for name, kind, was, now in rows:
        parts = 100 * was / longest, 100 * (now or 0.0) / longest
        # a runtime's node is shown under the name of its module
        module = name.partition(" (")[0]
        found.append(Bar(module, *parts, _time(was), "–" if now is None else _time(now), kind))
    return found


def _sum(layers: Sequence[LayerTime]) -> float:
    return sum(layer.seconds for layer in layers)
