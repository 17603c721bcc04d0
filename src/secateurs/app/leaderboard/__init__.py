"""Tables over many runs, from their records alone."""

from secateurs.app.leaderboard.records import Record, read_records
from secateurs.app.leaderboard.standing import Entry, Standing, standings

__all__ = ["Entry", "Record", "Standing", "read_records", "standings"]
