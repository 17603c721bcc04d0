"""Reports of a run: JSON, a table for the terminal, a picture and an HTML page."""

from secateurs.app.report.facts import kept_whole, timed
from secateurs.app.report.figures import (
    Figures,
    Kept,
    LayerTimes,
    LayerWidth,
    Proof,
    Report,
    Settings,
    Spread,
    Stage,
    Timed,
    layer_widths,
)
from secateurs.app.report.page import page
from secateurs.app.report.picture import draw
from secateurs.app.report.summary import ROWS, table

__all__ = [
    "ROWS",
    "Figures",
    "Kept",
    "LayerTimes",
    "LayerWidth",
    "Proof",
    "Report",
    "Settings",
    "Spread",
    "Stage",
    "Timed",
    "draw",
    "kept_whole",
    "layer_widths",
    "page",
    "table",
    "timed",
]
