"""A quick run of every row of the papers' tables goes through all of its stages, to its budget, without downloads."""

import io
import math

import pytest
from rich.console import Console

from secateurs.app.choices import BUDGETS
from secateurs.app.cli.report_file import finished
from secateurs.app.cli.reproduce import place_of, reproduce
from secateurs.app.cli.requests import Reproduction
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.experiments import find, rows
from secateurs.app.experiments.settling import Order, recipe_of, unavailable
from secateurs.app.leaderboard.records import read_record

FAST = "sfp-r20"
"""The row that every run of the tests takes; the others are slow only because they are many."""


def names():
    runnable = [row.name for row in rows() if not unavailable(row)]
    return [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in runnable]


@pytest.mark.parametrize("name", names())
def test_a_quick_run_goes_through_every_stage_to_the_budget(name, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *a, **k: pytest.fail("a quick run downloads"))
    reproduction = Reproduction(row=name, quick=True, out=tmp_path, threads=1)
    reproduce(reproduction, Console(file=io.StringIO()))

    place = place_of(reproduction, find(name))
    recipe, record = recipe_of(find(name), Order(quick=True)), read_record(place)
    report = finished(RunFolder(place))
    assert record.label == f"{name} (quick)"
    counts = record.report.epochs
    assert (counts["trained"], counts["recovered"]) == (recipe.train_epochs, recipe.epochs)
    assert bool(counts["pruned"]) == bool(find(name).epochs[1])
    assert all(math.isfinite(epoch.loss) for epoch in record.history)
    for kind in ("macs", "params"):
        if (asked := getattr(recipe, kind)) is not None:
            assert getattr(report.after, kind) <= asked * getattr(report.before, kind)
    decides = all(getattr(recipe, kind) is None for kind in BUDGETS) and not recipe.options.get("remove")
    assert (
        report.after.macs < report.before.macs or report.proof.zeros or decides
    )  # weights that learnt little may stay
