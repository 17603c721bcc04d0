"""Tables of many runs, made from their records."""

from secateurs.app.leaderboard.entries import Entry, Standing, standings
from secateurs.app.leaderboard.records import Record, read_records

__all__ = ["Entry", "Record", "Standing", "read_records", "standings"]
