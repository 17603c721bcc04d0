"""Many runs from one file: methods, budgets, seeds, controls and papers' rows, each in its own run folder."""

from secateurs.app.sweep.file import Sweep, Trial, read_sweep
from secateurs.app.sweep.jobs import Outcome, in_sequence

__all__ = ["Outcome", "Sweep", "Trial", "in_sequence", "read_sweep"]
