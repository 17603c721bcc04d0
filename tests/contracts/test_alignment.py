"""Widths are aligned by default, within the budget, and it is said."""

import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.allocate import Alignment, aligned, levels
from secateurs.errors import BudgetError


def block(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), nn.BatchNorm2d(cout), nn.ReLU())


def network(*widths):
    torch.manual_seed(0)
    return nn.Sequential(*map(block, (3, *widths), widths), nn.Conv2d(widths[-1], 4, 1))


X = torch.zeros(1, 3, 8, 8)


def widths(result):
    return [len(kept) for kept in result.plan.keep.values()]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_prune_aligns_within_the_budget(share):
    """Every width is on the grid or whole, a narrow group is free, the budget is met, and the result says so."""
    result = sct.prune(network(128, 40, 12), X, method="l2", budget=sct.Budget(macs=share))

    wide, middle, narrow = widths(result)
    assert wide % 16 == 0
    assert middle % 8 == 0
    assert 1 <= narrow <= 12
    assert result.cost_after.macs <= share * result.cost_before.macs
    assert "multiples of 16" in str(result)
    assert "multiple_of=1" in str(result)


def test_multiple_of_one_turns_it_off():
    """Exact widths meet the budget more tightly, and nothing is said."""
    model = network(128, 40, 12)
    exact = sct.prune(model, X, method="l2", budget=sct.Budget(macs=0.5, multiple_of=1))
    rounded = sct.prune(model, X, method="l2", budget=sct.Budget(macs=0.5))

    assert exact.notes == ()
    assert exact.cost_after.macs > rounded.cost_after.macs or widths(exact) == widths(rounded)
    assert any(width % 8 for width in widths(exact))


def test_plan_and_allocators_stay_exact():
    """Where a budget says nothing, only `prune` rounds."""
    model = network(128, 40)
    graph = sct.trace(model, X)
    plan = sct.plan(graph, model, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5))

    assert (
        plan.keep
        == sct.plan(graph, model, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5, multiple_of=1)).keep
    )
    assert any(len(kept) % 8 for kept in plan.keep.values())


def test_a_budget_below_the_grid_is_met_with_any_width():
    """What the grid cannot reach is reached without it, and it is said that widths are not rounded."""
    result = sct.prune(network(16, 16), X, method="l2", budget=sct.Budget(macs=0.1))

    assert result.cost_after.macs <= 0.1 * result.cost_before.macs
    assert "not rounded" in result.notes[0]


def test_nothing_is_said_where_all_groups_are_narrow():
    graph = sct.trace(network(8, 12), X)
    budget = sct.Budget(macs=0.5)

    assert aligned(graph, budget) == (budget, "")


def test_levels_of_an_alignment():
    """Each group has the multiples of its own width, and may stay whole."""
    graph = sct.trace(network(136, 20, 10), X)
    found = levels(graph, sct.Budget(macs=0.5, multiple_of=Alignment()))

    assert found[0].tolist() == [*range(16, 136, 16), 136]
    assert found[1].tolist() == [8, 16, 20]
    assert found[2].tolist() == list(range(1, 11))


@pytest.mark.parametrize("steps", [(), ((8, 4), (16, 8)), ((16, 8), (16, 4)), ((16, 0),)])
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(BudgetError, match="the widest first"):
        Alignment(steps)
