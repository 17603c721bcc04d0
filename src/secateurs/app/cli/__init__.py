"""The command line: `secateurs prune`, `inspect`, `demo`, `export`, `compare`, `sweep`, `leaderboard`, `reproduce`."""

from secateurs.app.cli.main import main

__all__ = ["main"]
