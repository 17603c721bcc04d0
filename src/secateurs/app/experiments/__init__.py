"""The papers' experiments: one file a row of their tables, each run by one command."""

from secateurs.app.experiments.row import Reported, Row, find, rows

__all__ = ["Reported", "Row", "find", "rows"]
