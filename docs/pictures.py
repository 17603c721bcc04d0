"""Draw the pictures of docs/concepts.md: python docs/pictures.py"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, Rectangle

OUT = Path(__file__).parent / "images"
COLOURS = ["#0f766e", "#b45309", "#6d28d9", "#be123c"]
GREY, INK = "#d4d4d8", "#3f3f46"


def sheet(width, height):
    figure, axes = plt.subplots(figsize=(width, height), dpi=150, facecolor="white")
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def channels(axes, x, y, colours, label, crossed=()):
    """A tensor as a column of channels."""
    for k, colour in enumerate(colours):
        axes.add_patch(Rectangle((x, y + 0.34 * k), 0.55, 0.28, facecolor=colour, edgecolor=INK, linewidth=0.8))
        if k in crossed:
            axes.plot([x, x + 0.55], [y + 0.34 * k, y + 0.34 * k + 0.28], color=INK, linewidth=1.2)
    axes.text(x + 0.275, y - 0.24, label, ha="center", va="center", fontsize=8, color=INK)


def arrow(axes, start, end):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=INK, linewidth=1))


def labels():
    figure, axes = sheet(7, 2.9)
    channels(axes, 0.4, 0.9, COLOURS, "stem")
    channels(axes, 2.2, 0.9, ["#99f6e4", "#5eead4", "#2dd4bf", "#14b8a6", "#0d9488"], "inner")
    channels(axes, 4.0, 0.9, COLOURS, "outer")
    channels(axes, 5.9, 0.9, COLOURS, "sum")
    for x in (1.0, 2.8, 4.65):
        arrow(axes, (x, 1.55), (x + 1.1, 1.55))
    axes.add_patch(
        FancyArrowPatch(
            (0.7, 2.4),
            (6.1, 2.4),
            connectionstyle="arc3,rad=-0.12",
            arrowstyle="-|>",
            mutation_scale=10,
            color=INK,
            linewidth=1,
        )
    )
    axes.text(
        3.5,
        0.2,
        "Where tensors are added, labels meet: stem and outer lose the same channels.",
        ha="center",
        fontsize=8.5,
        color=INK,
    )
    figure.savefig(OUT / "labels.png")


def silence():
    figure, axes = sheet(7, 2.6)
    quiet = [COLOURS[0], "white", COLOURS[2], COLOURS[3]]
    channels(axes, 0.6, 0.9, quiet, "channel 2 is zero")
    channels(axes, 2.2, 1.05, [GREY, GREY, GREY], "its reader")
    channels(axes, 4.4, 1.05, [COLOURS[0], COLOURS[2], COLOURS[3]], "removed")
    channels(axes, 6.0, 1.05, [GREY, GREY, GREY], "its reader")
    arrow(axes, (1.2, 1.5), (2.15, 1.5))
    arrow(axes, (5.0, 1.5), (5.95, 1.5))
    axes.text(3.6, 1.5, "=", ha="center", va="center", fontsize=20, color=INK)
    axes.text(
        3.5, 0.2, "A sum does not notice a zero: both networks compute the same.", ha="center", fontsize=8.5, color=INK
    )
    figure.savefig(OUT / "silence.png")


def proof():
    figure, axes = sheet(7, 4.3)
    for row, (y, title) in enumerate([(2.5, "recorded"), (0.75, "smaller")]):
        axes.text(0.1, y + 0.6, title, fontsize=8.5, color=INK, va="center")
        for k, x in enumerate((1.3, 3.2, 5.1)):
            kept = COLOURS if row == 0 else [COLOURS[0], COLOURS[2], COLOURS[3]]
            channels(axes, x, y, kept, f"result {k + 1}", crossed=(1,) if row == 0 else ())
            if k < 2:
                arrow(axes, (x + 0.6, y + 0.6), (x + 1.85, y + 0.6))
    axes.text(
        3.5,
        0.15,
        "Every result of the smaller network has to be the recorded one without what was crossed out.",
        ha="center",
        fontsize=8.5,
        color=INK,
    )
    figure.savefig(OUT / "proof.png")


if __name__ == "__main__":
    labels()
    silence()
    proof()
