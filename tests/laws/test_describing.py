"""Integers that describe a width follow it, although the recorded forward does not count by them."""

import copy

import pytest
import torch
from torch import nn

import secateurs as sct


class Halves(nn.Module):
    """Halves that `chunk` cuts, and a second forward that cuts them by an attribute."""

    def __init__(self, shortcut):
        super().__init__()
        self.half, self.shortcut = 8, shortcut
        self.enter, self.inner, self.leave = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(24, 6, 1)

    def forward(self, x):
        return self.joined(self.enter(x).chunk(2, 1))

    def exported(self, x):
        return self.joined(self.enter(x).split((self.half, self.half), 1))

    def joined(self, halves):
        left, right = halves
        return self.leave(torch.cat([left, right, self.inner(right) + right * self.shortcut], 1))


class Checked(nn.Module):
    """A forward that compares the width of its input with an attribute; it may also compute with it."""

    def __init__(self, *, scaled):
        super().__init__()
        self.width, self.scaled = 8, scaled
        self.enter, self.inner = nn.Linear(5, 8), nn.Linear(8, 10)
        self.leave = nn.Linear(10, 3)

    def forward(self, x):
        x = self.enter(x)
        assert self.scaled or x.shape[-1] == self.width
        x = x * (self.width**-0.5 if self.scaled else 1.0)
        return self.leave(self.inner(x).relu())


class Apart(nn.Module):
    """Two widths of one size that shrink apart, and an attribute that may mean either."""

    def __init__(self):
        super().__init__()
        self.width = 8
        self.a, self.b, self.leave = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(16, 3)

    def forward(self, x):
        return self.leave(torch.cat([self.a(x).relu(), self.b(x).tanh()], -1))


class Private(nn.Module):
    """Heads counted by a private attribute."""

    def __init__(self):
        super().__init__()
        self._heads = 4
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x):
        heads = self.enter(x).view(*x.shape[:2], self._heads, 4).softmax(1)
        return self.leave(heads.reshape(*x.shape[:2], self._heads * 4))


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_number_that_another_forward_cuts_by_follows(shortcut):
    """The second forward of the pruned network computes what the first does."""
    x = torch.rand(1, 3, 4, 4)
    small = sct.prune(Halves(shortcut), x, method="l2", budget=sct.Budget(macs=0.5)).model

    assert small.half == small.enter.out_channels // 2 < 8
    assert torch.equal(small(x), small.exported(x))


def test_a_number_that_the_forward_compares_follows():
    """A check of the width keeps no channel."""
    result = sct.prune(Checked(scaled=False), torch.rand(2, 5), method="l2", budget=sct.Budget(macs=0.5))

    assert {"enter", "inner"} == {group.name for group in result.graph.groups}
    assert result.model.width == result.model.enter.out_features < 8


def test_a_number_that_the_forward_computes_with_stays():
    """A scale stays what it was; the note names the attribute."""
    model, x = Checked(scaled=True), torch.rand(2, 5)
    graph = sct.trace(model, x)

    assert {"enter", "inner"} == {group.name for group in graph.groups}
    assert ["Checked.width of the model keeps its value: the forward computes something else with it"] == list(
        graph.notes
    )
    plan = sct.Plan.from_keep(graph, {"enter": [0, 1, 2]})
    assert sct.apply(plan, copy.deepcopy(model)).width == 8


def test_a_number_that_may_mean_two_widths_is_noted():
    """It keeps its value, and the note says why."""
    graph = sct.trace(Apart(), torch.rand(2, 5))

    assert {"a", "b"} == {group.name for group in graph.groups}
    assert any("Apart.width" in note and "shrink apart" in note for note in graph.notes)
    assert not sct.Plan.from_keep(graph, {"a": [0, 1, 2], "b": [1, 2]}).attributes


def test_private_numbers_follow():
    """A plan may set a number whose name begins with an underscore, but none that every module has."""
    result = sct.prune(Private(), torch.rand(2, 7, 5), method="l2", budget=sct.Budget(macs=0.5))

    assert result.model._heads < 4
    broken = sct.Plan.from_json(result.plan.to_json().replace(":_heads", ":_version"))
    with pytest.raises(sct.errors.PlanError):
        sct.apply(broken, Private())
