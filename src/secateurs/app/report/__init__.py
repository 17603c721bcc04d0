"""Reports of a run: JSON for programs, a table for the terminal, a picture for people."""

from secateurs.app.report.figures import Figures, LayerWidth, Report, Stage, layer_widths
from secateurs.app.report.picture import draw
from secateurs.app.report.summary import ROWS, table

__all__ = ["ROWS", "Figures", "LayerWidth", "Report", "Stage", "draw", "layer_widths", "table"]
