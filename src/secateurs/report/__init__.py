"""What a run came to: as JSON for programs, as a table for the terminal, as a picture for people."""

from secateurs.report.picture import draw
from secateurs.report.table import table
from secateurs.report.values import Figures, LayerWidth, Report, Stage, layer_widths

__all__ = ["Figures", "LayerWidth", "Report", "Stage", "draw", "layer_widths", "table"]
