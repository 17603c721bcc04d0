"""Tables over many runs, from their records alone."""

from secateurs.app.leaderboard.entries import Entry, Standing, standings
from secateurs.app.leaderboard.reading import read_committed, read_records
from secateurs.app.leaderboard.records import Record

__all__ = ["Entry", "Record", "Standing", "read_committed", "read_records", "standings"]
