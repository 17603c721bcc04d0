"""Tables of many runs, made from their records."""

from secateurs.app.leaderboard.entries import Entry, Standing, standings
from secateurs.app.leaderboard.reading import read_committed, read_records
from secateurs.app.leaderboard.records import Record

__all__ = ["Entry", "Record", "Standing", "read_committed", "read_records", "standings"]
