"""Read one finished run: its recipe, its report, and the curves of its trainings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, final

import yaml

from secateurs.app.choices import BUDGETS
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.report_file import REPORT
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.cli.start import Start
from secateurs.app.leaderboard.portable import portable
from secateurs.app.training import Epoch
from secateurs.errors import DamageError

MACHINE = ("device", "threads", "workers", "devices", "num_nodes", "strategy", "logger")
"""Keys of a recipe that do not change the experiment."""
CONTROLS = ("random", "l2", "scratch", "dense")
"""Controls of every method: units drawn at random, units of the smallest L2 norm, the same small network trained from
scratch, and the dense network trained on with the same recipe."""


@final
@dataclass(frozen=True)
class Side:
    """Compared figures of a network: accuracy on the test split, costs, and seconds of one image."""

    accuracy: float
    macs: int
    params: int
    memory: int
    file_bytes: int
    latency: float


@final
@dataclass(frozen=True)
class Told:
    """The fields of a report that tables use, which all versions of the format have."""

    before: Side
    after: Side
    seconds: float
    conditions: Mapping[str, str]
    last: float | None = None
    """Test accuracy after the last epoch; None where it was not recorded."""
    epochs: Mapping[str, int] = field(default_factory=dict[str, int])
    """Stage name -> trained epochs."""

    @staticmethod
    def read(found: Mapping[str, Any]) -> Told:
        """Read it from a report; KeyError or TypeError if it is not one."""
        before, after = (Side(**{f.name: found[when][f.name] for f in fields(Side)}) for when in ("before", "after"))
        seconds = sum(float(stage["seconds"]) for stage in found["stages"])
        epochs = {str(stage["name"]): len(stage.get("history", ())) for stage in found["stages"]}
        return Told(before, after, seconds, dict(found["conditions"]), found.get("last"), epochs)

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Told:
        """Restore one from `dataclasses.asdict`; KeyError or TypeError if the mapping is of something else."""
        rest = {key: value for key, value in plain.items() if key not in ("before", "after")}
        return Told(before=Side(**plain["before"]), after=Side(**plain["after"]), **rest)


@final
@dataclass(frozen=True)
class Record:
    """One finished run: its folder, its recipe as plain keys, its report, and its epochs after removal."""

    folder: Path
    keys: Mapping[str, Any]
    report: Told
    history: tuple[Epoch, ...]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.keys.get("seed", 0))

    @property
    def method(self) -> str:
        """Name of the method."""
        method = self.keys.get("method", Recipe.method)
        return str(method["name"] if isinstance(method, Mapping) else method)

    @property
    def control(self) -> str:
        """The control that the run is, one of `CONTROLS`; empty for a method."""
        kind = str(self.keys.get("control", "none"))
        if kind != "none":
            return kind
        if self.method in ("random", "l2"):
            return self.method
        p2 = isinstance(self.keys.get("method"), Mapping) and self.keys["method"].get("p") == 2
        return "l2" if self.method == "magnitude" and p2 else ""

    @property
    def name(self) -> str:
        """Name of the run in a table: its method or control, and unusual settings of its recovery."""
        words = {"scratch": "same network from scratch", "dense": "dense, continued"}
        named = words.get(self.control, self.control or self.method)
        like = portable(self.keys).get("like")
        named += f" (as large as {like})" if like else ""
        more = [str(self.keys["recover"])] if self.keys.get("recover", "recalibrate") != "recalibrate" else []
        more += ["distil"] if self.keys.get("distil") else []
        return " + ".join([named, *more])

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the method and of the trainings, as text; not those of the network, the data and the machine."""
        aside = {f.name for f in fields(Start)} | {"method", "options", "like"}
        found = {name: value for name, value in vars(Recipe()).items() if name not in aside}
        found |= {name: value for name, value in self.keys.items() if name in found}
        method = self.keys.get("method")
        if isinstance(method, Mapping):
            found |= {str(name): value for name, value in method.items() if name != "name"}
        return {name: str(value) for name, value in found.items()}

    @property
    def label(self) -> str:
        """The paper's row that the run is tagged with; empty if none."""
        return str(self.keys.get("label") or "")

    @property
    def place(self) -> tuple[str, str]:
        """The network, and the data without their folder, which define a table."""
        model = str(self.keys.get("model", Recipe.model))
        return model.rpartition("/")[2], str(self.keys.get("data", Recipe.data)).partition(":")[0]

    @property
    def epochs(self) -> str:
        """Epochs of the first training, of pruning and of fine-tuning, without those stages that had none."""
        counts = [self.report.epochs.get(name, 0) for name in ("trained", "pruned", "recovered")]
        return " + ".join(str(count) for count in counts if count) or "0"

    @property
    def budget(self) -> str:
        """The budget of the run, in words."""
        given = [f"{name} {value:g}" for name in BUDGETS if (value := self.keys.get(name)) is not None]
        return ", ".join(given) or "the method's own"

    @property
    def picked(self) -> int | None:
        """The best epoch by validation after removal, counted from 1; None without training after removal."""
        best: Epoch | None = None
        for epoch in self.history:
            best = epoch if epoch.better_than(best) else best
        return best.epoch if best else None

    @property
    def last(self) -> float | None:
        """The test accuracy after the last epoch; None in records that lack it."""
        if self.report.last is not None:
            return self.report.last
        same = not self.history or self.picked == self.history[-1].epoch
        return self.report.after.accuracy if same else None

    @property
    def sort(self) -> tuple[tuple[str, str], ...]:
        """Key that is equal for runs that differ only in seed and machine."""
        skipped = {"seed", *MACHINE}
        kept = {key: value for key, value in portable(self.keys).items() if key not in skipped}
        return tuple(sorted((key, repr(value)) for key, value in kept.items()))


def read_record(place: Path) -> Record | None:
    """Read the run of one folder; None if it is not finished."""
    folder = RunFolder(place)
    file, content = folder.recipe(), folder.report(REPORT)
    if file is None or content is None:
        return None
    try:
        told = Told.read(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise DamageError(f"{place / REPORT} is no report ({cause!r}); put the original back") from cause
    keys: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    trained = folder.done("recovered") or {}
    history = tuple(Epoch(**epoch) for epoch in trained.get("history", ()))
    return Record(place, keys, told, history)
