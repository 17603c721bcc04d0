"""Floors and multiples by path and by class of module: the nearest pattern counts, and all writers of a group agree."""

from contextlib import nullcontext

import pytest
import torch
from tests.laws.loops import EPOCHS, PER_EPOCH, X, pupil
from torch import nn

import secateurs as sct
from secateurs.errors import BudgetError, RecipeError


class Net(nn.Module):
    """Two stages of which the second has a sum, and a classifier with a hidden layer."""

    def __init__(self):
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 24, 3, padding=1))
        self.head = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 5))

    def forward(self, x):
        x = self.early(x)
        return self.head((x + self.late(x)).mean((2, 3)))


IMAGE = torch.zeros(1, 3, 8, 8)


def widths(**limits):
    result = sct.prune(Net(), IMAGE, method="l1", budget=sct.Budget(macs=0.3, **limits))
    small = result.model
    return small.early[0].out_channels, small.late[0].out_channels, small.head[0].out_features


def test_multiples_by_path_and_by_class():
    """Each by its own multiple; what no pattern names has any width."""
    _, late, head = widths(multiple_of={"late.0": 16, nn.Linear: 5})

    assert late % 16 == 0
    assert head % 5 == 0
    assert late < 48


def test_all_that_write_a_group_agree():
    """The sum of two convolutions: no width below 24 is a multiple of both 8 and 5, so that all units stay."""
    early, late, _ = widths(multiple_of={"early": 8, "late.2": 5})

    assert early == 24
    assert late < 48


def test_the_nearest_pattern_counts():
    """A path before a class, the longer path, the inner class."""
    graph = sct.trace(Net(), IMAGE)
    at = {group.name: place for place, group in enumerate(graph.groups)}

    def numbers(given):
        found = sct.Budget(macs=0.5, multiple_of=given).multiples(graph)
        return [found[at[name]] for name in ("early.0", "late.0", "head.0")]

    assert numbers({"*": 2, "late.*": 3, nn.Linear: 5}) == [6, 3, 2]
    assert numbers({nn.Module: 7, nn.Conv2d: 4, "head": 3}) == [4, 4, 3]
    assert numbers({nn.Sequential: 9, nn.Linear: 4}) == [9, 9, 4]
    assert numbers({"late.?": 3, "*.0": 2}) == [6, 3, 2]


def test_floors_by_path_and_by_class():
    """The smallest network keeps what is asked for."""
    budget = sct.Budget(params=0.99, min_keep={"late.0": 10, nn.Linear: 7})
    graph = sct.trace(Net(), IMAGE)
    assert dict(zip([g.name for g in graph.groups], budget.floors(graph), strict=True)) == {
        "early.0": 1,
        "late.0": 10,
        "head.0": 7,
    }
    with pytest.raises(BudgetError, match=r"min_keep=\{'late.0': 40, Linear: 7\} has"):
        sct.prune(Net(), IMAGE, method="l1", budget=sct.Budget(macs=0.02, min_keep={"late.0": 40, nn.Linear: 7}))


def test_a_session_and_a_plan_take_them():
    """Like any budget."""
    graph = sct.trace(Net(), IMAGE)
    plan = sct.plan(
        graph, Net(), criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.4, multiple_of={nn.Conv2d: 8})
    )
    assert all(len(plan.keep[name]) % 8 == 0 for name in ("early.0", "late.0"))

    for given, fits in (({nn.Conv2d: 2}, True), ({nn.LSTM: 2}, False)):
        with nullcontext() if fits else pytest.raises(RecipeError, match="LSTM"):
            sct.Session(
                pupil(),
                X,
                method="greg1",
                budget=sct.Budget(macs=0.6, min_keep=given),
                steps_per_epoch=PER_EPOCH,
                epochs=EPOCHS,
            )


@pytest.mark.parametrize(
    ("limits", "error", "words"),
    [
        ({"multiple_of": {"layer9.*": 8}}, RecipeError, r"multiple_of of 'layer9.\*' matches no module"),
        ({"min_keep": {nn.LSTM: 8}}, RecipeError, "min_keep of LSTM matches no module.*Conv2d"),
        ({"min_keep": {"late": 0}}, BudgetError, "min_keep=0 of 'late'"),
        ({"min_keep": {"late": 2.0}}, BudgetError, "min_keep=2.0 of 'late'"),
        ({"multiple_of": {3: 8}}, BudgetError, "names 3, which is no pattern"),
        ({"multiple_of": {}}, BudgetError, "names no layer"),
    ],
)
def test_what_matches_nothing_is_refused(limits, error, words):
    with pytest.raises(error, match=words):
        widths(**limits)
