"""Finished runs in one JSON file, without networks and without the folders of the machine: what a project commits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateurs.app.leaderboard.command import command
from secateurs.app.leaderboard.portable import portable
from secateurs.app.leaderboard.records import Record, Told
from secateurs.app.training import Epoch
from secateurs.errors import DamageError

FORMAT = "secateurs runs 1"


def written(records: Iterable[Record]) -> str:
    """The file: for each run its command, recipe, figures, epochs after removal, versions and kind of machine."""
    runs = [_run(record) for record in records]
    return json.dumps({"format": FORMAT, "runs": runs}, indent=1, ensure_ascii=False) + "\n"


def is_archive(file: Path) -> bool:
    """Return True if a JSON file is such an archive, by its first bytes."""
    with file.open("rb") as opened:
        return FORMAT.encode() in opened.read(len(FORMAT) + 32)


def read_archive(file: Path) -> list[Record]:
    """The runs of a file; DamageError where it is not whole."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        runs = {FORMAT: found["runs"]}[found["format"]]
        return [
            Record(
                Path(f"{file}:{number}"),
                run["recipe"],
                Told.of(run["report"]),
                tuple(Epoch(**epoch) for epoch in run["history"]),
            )
            for number, run in enumerate(runs)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise DamageError(f"{file} is no file of runs ({cause!r}); put the original back") from cause


def _run(record: Record) -> dict[str, Any]:
    return {
        "network": record.name,
        "seed": record.seed,
        "command": command(record.keys),
        "report": asdict(record.report),
        "history": [asdict(epoch) for epoch in record.history],
        "recipe": portable(record.keys),
    }
