"""The command line: `secateurs demo`, `secateurs prune`, `secateurs inspect`."""

from secateurs.app.cli.main import main

__all__ = ["main"]
