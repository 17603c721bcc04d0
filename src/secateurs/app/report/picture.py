"""The picture of a run: widths of all layers, accuracy by stage, and remaining costs."""

from io import BytesIO
from typing import Any

from secateurs.app.report.figures import LayerWidth, Report
from secateurs.app.report.summary import ROWS, in_units
from secateurs.errors import InputError

INK, PALE, LEAF, BARK = "#22302b", "#dfe7e2", "#2f7d5b", "#b4542a"
"""Colours of text, removed channels, remaining channels, and accuracy."""

DOTS = 160
"""Dots per inch."""

FEW = 48
"""Largest number of layers whose names are written under their bars."""


def draw(report: Report) -> bytes:
    """Return the picture as PNG: widths of all layers on top, accuracy by stage and remaining costs below.

    Uses matplotlib's objects without global state: backend and style of the process are not changed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise InputError(
            f"matplotlib draws the picture and cannot be imported ({missing}); install it: "
            "python -m pip install 'secateurs[report]'"
        ) from missing
    with rc_context({"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(11, 6.6), facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            2, 2, height_ratios=(1.25, 1), width_ratios=(1.15, 1), left=0.075, right=0.965, top=0.83, bottom=0.085
        )
        grid.update(hspace=0.62, wspace=0.32)
        _headline(figure, report)
        _widths(figure.add_subplot(grid[0, :]), report.widths)
        _accuracy(figure.add_subplot(grid[1, 0]), report)
        _costs(figure.add_subplot(grid[1, 1]), report)
        written = BytesIO()
        figure.savefig(written, format="png", dpi=DOTS)
    return written.getvalue()


def _headline(figure: Any, report: Report) -> None:
    before, after = report.before, report.after
    measured = "no labels, so no accuracy"
    if before.accuracy is not None and after.accuracy is not None:
        points = 100 * (after.accuracy - before.accuracy)
        figures = f"{100 * before.accuracy:.2f} % → {100 * after.accuracy:.2f} %"
        measured = f"test {report.metric} {figures} ({points:+.2f} points)"
    figure.text(0.03, 0.945, report.title, fontsize=16, weight="bold", va="center")
    figure.text(
        0.03,
        0.893,
        f"{in_units(before.macs)} → {in_units(after.macs)} MACs ({100 * after.macs / before.macs:.1f} %), "
        f"{in_units(before.params)} → {in_units(after.params)} parameters, "
        f"{measured}",
        fontsize=11.5,
        va="center",
    )


def _widths(axes: Any, widths: tuple[LayerWidth, ...]) -> None:
    places = range(len(widths))
    removed = axes.bar(places, [w.before for w in widths], width=0.82, color=PALE)
    kept = axes.bar(places, [w.after for w in widths], width=0.82, color=LEAF)
    top = max((w.before for w in widths), default=1)
    axes.set_ylim(0, top * 1.12)
    axes.set_xlim(-0.7, len(widths) - 0.3)
    axes.set_title("Channels of each layer", loc="left", fontsize=11, weight="bold")
    square = {"frameon": False, "handlelength": 1, "handleheight": 1, "borderaxespad": 0}
    axes.legend([kept, removed], ["kept", "removed"], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, **square)
    if len(widths) <= FEW:
        size = 8.5 if len(widths) <= FEW // 2 else 6.5
        names = [w.name for w in widths]
        axes.set_xticks(list(places), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=size)
        for place, width in enumerate(widths):
            axes.text(place, width.after + top * 0.015, str(width.after), ha="center", va="bottom", fontsize=size)
    else:
        axes.set_xlabel(f"{len(widths)} layers, from input to output")
        axes.set_xticks([])
    _plain(axes)


def _accuracy(axes: Any, report: Report) -> None:
    stages = [stage for stage in report.stages if stage.accuracy is not None]
    values = [100 * (stage.accuracy or 0.0) for stage in stages]
    if not values:
        axes.set_axis_off()
        return
    places = list(range(len(values)))
    points = {"marker": "o", "markersize": 7, "markerfacecolor": "white", "markeredgewidth": 2}
    axes.plot(places, values, color=BARK, linewidth=2, **points)
    low, high = min(values), max(values)
    room = max(high - low, 1.0)
    for place, value in zip(places, values, strict=True):
        around = [values[k] for k in (place - 1, place + 1) if 0 <= k < len(values)]
        below = all(other > value for other in around)
        rise, anchor = (-0.1, "top") if below else (0.1, "bottom")
        axes.text(place, value + rise * room, f"{value:.1f}", ha="center", va=anchor, fontsize=9.5)
    axes.set_ylim(low - 0.35 * room, high + 0.35 * room)
    axes.set_xlim(-0.4, len(values) - 0.6)
    axes.set_xticks(places, [stage.name for stage in stages])
    axes.set_yticks([])
    axes.set_title(f"Validation {report.metric} after each stage, %", loc="left", fontsize=11, weight="bold")
    _plain(axes)


def _costs(axes: Any, report: Report) -> None:
    for place, (name, read, write) in enumerate(ROWS):
        old, new = read(report.before), read(report.after)
        share = new / old if old else 0.0
        shown = min(share, 1.0)
        axes.barh(place, 1, height=0.58, color=PALE)
        axes.barh(place, shown, height=0.58, color=LEAF)
        axes.text(-0.02, place, name, ha="right", va="center", fontsize=9.5)
        axes.text(1.02, place, f"{write(old)} → {write(new)}", ha="left", va="center", fontsize=9)
        inside = {"ha": "right", "color": "white"} if shown > 0.3 else {"ha": "left", "color": INK}
        beside = shown - 0.015 if shown > 0.3 else shown + 0.015
        axes.text(beside, place, f"{100 * share:.1f} %", va="center", fontsize=9, **inside)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(ROWS) - 0.5, -0.5)
    axes.set_title("What remains", loc="left", fontsize=11, weight="bold")
    axes.set_axis_off()
    box = axes.get_position()
    axes.set_position((box.x0 + 0.06, box.y0, box.width - 0.2, box.height))


def _plain(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(length=0, colors=INK)
    axes.yaxis.grid(visible=True, color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
