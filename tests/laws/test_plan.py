"""A plan is a value: it is chosen with care, read back equal, slices any mapping, and composes."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.laws.networks import Tied

import secateurs as sct
from secateurs.errors import InputError, PlanError
from secateurs.surgery.plan_json import from_runs, to_runs


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    return sct.trace(Tied(), torch.randn(2, 3, 4, 4))


@pytest.fixture(scope="module")
def plan(graph):
    return sct.Plan.from_keep(graph, {group.name: range(1, group.units, 2) for group in graph.groups})


@given(st.sets(st.integers(0, 300), min_size=1))
def test_runs_are_read_back(indices):
    """Any ascending indices survive being written as runs."""
    ascending = tuple(sorted(indices))

    assert ascending == from_runs(to_runs(ascending))


@pytest.mark.parametrize("text", ["", "3-1", "1,1", "2,1", "0-3,3", "-1", "a", "1,", "1.5", "0 - 3"])
def test_what_is_not_runs_is_refused(text):
    with pytest.raises(ValueError, match=r"run|list"):
        from_runs(text)


def test_more_runs_than_the_tensor_has_entries_are_not_written_out():
    """Three characters may stand for as many numbers as fit in memory, so that they are counted before."""
    assert from_runs("0-9", 10) == tuple(range(10))
    for text in ("0-10", "0-4,6-11"):
        with pytest.raises(ValueError, match="more than 10 indices"):
            from_runs(text, 10)


@pytest.mark.parametrize(
    "choice",
    [
        [4, 0, 2],
        (2, 0, 4),
        {0, 2, 4},
        range(0, 6, 2),
        np.array([0, 2, 4], dtype=np.int32),
        torch.tensor([4, 2, 0]),
        [True, False, True, False, True, False],
        np.array([True, False, True, False, True, False]),
        torch.tensor([True, False, True, False, True, False]),
    ],
    ids=lambda c: f"{type(c).__name__} of {getattr(c, 'dtype', type(next(iter(c))).__name__)}",
)
def test_a_choice_is_read_in_any_form(graph, choice):
    """Indices in any order and masks, of any kind, mean the same units."""
    name = graph.groups[0].name

    assert (0, 2, 4) == sct.Plan.from_keep(graph, {name: choice}).keep[name]


@pytest.mark.parametrize(
    ("choice", "fact"),
    [
        ([], "none is kept"),
        (torch.zeros(6, dtype=torch.bool), "none is kept"),
        ([0, 6], "[6] are out of range"),
        ([-1, 2], "[-1] are out of range"),
        ([1, 1, 2], "[1] are named twice"),
        ([True, False], "mask has shape (2,)"),
        ([0.0, 1.0], "float64"),
        (np.zeros((2, 3), dtype=int), "shape (2, 3)"),
    ],
)
def test_a_bad_choice_is_refused_by_group_and_fact(graph, choice, fact):
    """The message has the group's name, what is wrong, and what a choice may be."""
    name = graph.groups[0].name
    with pytest.raises(InputError) as caught:
        sct.Plan.from_keep(graph, {name: choice})

    assert repr(name) in str(caught.value)
    assert fact in str(caught.value)
    assert "from 0 to 5" in str(caught.value)


def test_an_unknown_group_is_refused_with_near_names(graph):
    name = graph.groups[0].name
    with pytest.raises(InputError, match=f"did you mean '{name}'"):
        sct.Plan.from_keep(graph, {f"{name}s": [0]})


def test_a_plan_is_read_back_equal_and_without_its_graph(plan):
    """JSON holds everything but the graph."""
    back = sct.Plan.from_json(plan.to_json())

    assert plan == back
    assert back.graph is None
    assert plan.graph is not None
    assert back != sct.Plan.identity(plan.graph)


DAMAGE = {
    "another format": lambda d: d.update(format=2),
    "no format": lambda d: d.pop("format"),
    "no tensors": lambda d: d.pop("tensors"),
    "a tensor without a shape": lambda d: d["signature"].pop("stem.weight"),
    "an index outside its tensor": lambda d: d["signature"].update({"stem.weight": [1, 3, 3, 3]}),
    "a shape of text": lambda d: d["signature"].update({"stem.weight": ["6", 3, 3, 3]}),
    "a unit outside its group": lambda d: d["groups"][next(iter(d["groups"]))].update(units=1),
    "units out of order": lambda d: d["groups"][next(iter(d["groups"]))].update(keep="3,1"),
    "a dimension too many": lambda d: d["tensors"]["stem.weight"].update({"7": "0"}),
    "a tie of two shapes": lambda d: d["aliases"].update({"stem.weight": "head.weight"}),
    "half an attribute": lambda d: d.update(attributes={"stem:groups": 1.5}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_plan_is_refused(plan, damage):
    """Every part of the document is checked."""
    document = json.loads(plan.to_json())
    damage(document)
    with pytest.raises(PlanError, match=r"damaged|format"):
        sct.Plan.from_json(json.dumps(document))


UNFIT = {
    "a bias left whole": lambda d: d["tensors"].pop("stem.bias"),
    "other outputs in the bias": lambda d: d["tensors"]["stem.bias"].update({"0": "0-2"}),
    "statistics left whole": lambda d: d["tensors"].pop("norm.running_var"),
    "groups that do not divide": lambda d: d["attributes"].update({"stem:groups": 2}),
}


@pytest.mark.parametrize("damage", UNFIT.values(), ids=UNFIT)
def test_a_plan_without_a_graph_is_checked_layer_by_layer(plan, damage):
    """What is kept of a layer's tensors belongs together, or nothing is touched."""
    document, model = json.loads(plan.to_json()), Tied()
    damage(document)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PlanError, match=r"one layer"):
        sct.apply(sct.Plan.from_json(json.dumps(document)), model)

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.stem.groups == 1


def test_a_transposed_convolution_is_checked_by_its_outputs():
    """Its outputs are dimension 1 of its weight, times its groups."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ConvTranspose2d(4, 6, 1), torch.nn.Conv2d(6, 2, 1))
    graph = sct.trace(model, torch.randn(1, 3, 4, 4))
    whole = sct.Plan.from_keep(graph, {"0": [0, 1], "1": [0, 2, 4]})
    small = sct.apply(sct.Plan.from_json(whole.to_json()), copy.deepcopy(model))
    document = json.loads(whole.to_json())
    document["tensors"].pop("1.bias")
    with pytest.raises(PlanError, match=r"leaves 3 outputs in 1.weight and 6 in 1.bias"):
        sct.apply(sct.Plan.from_json(json.dumps(document)), model)

    assert small[1].weight.shape == (2, 3, 1, 1)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x80\x04"])
def test_what_is_not_a_plan_is_refused(text):
    with pytest.raises(PlanError):
        sct.Plan.from_json(text)


def test_any_mapping_is_sliced_like_the_model(plan):
    """State dicts, gradients and averages, tied names too; what the plan does not know passes as it is."""
    torch.manual_seed(0)
    model = Tied()
    extra = torch.ones(6)
    sliced = plan.slice({**model.state_dict(), "mine": extra})
    pruned = sct.apply(plan, model).state_dict()

    assert sliced.pop("mine") is extra
    assert sliced.keys() == pruned.keys()
    assert all(torch.equal(sliced[name], pruned[name]) for name in pruned)
    assert sliced["right.weight"].shape == sliced["left.weight"].shape != torch.Size([6, 6, 3, 3])


def test_slicing_twice_or_through_a_wrapper_is_refused(plan):
    """What is not the dense network's tensor is not cut by guess."""
    weight = torch.zeros(6, 3, 3, 3)
    once = plan.slice({"stem.weight": weight})
    with pytest.raises(PlanError, match=r"stem.weight is 3×3×3×3, but the plan was made for 6×3×3×3"):
        plan.slice(once)
    with pytest.raises(PlanError, match=r"strip the prefix 'module.'"):
        plan.slice({"module.stem.weight": weight})


def test_composition(graph):
    """Applying p, then q made on what p leaves, is applying p.then(q): bit for bit."""
    torch.manual_seed(0)
    model = Tied()
    first = sct.Plan.from_keep(graph, {g.name: range(1, g.units) for g in graph.groups})
    left = graph.shrink(first.keep)
    second = sct.Plan.from_keep(left, {g.name: range(0, g.units, 2) for g in left.groups})
    both = first.then(second)
    direct = sct.apply(both, copy.deepcopy(model)).state_dict()
    steps = sct.apply(second, sct.apply(first, model)).state_dict()

    assert {g.name: tuple(range(1, g.units, 2)) for g in graph.groups} == dict(both.keep)
    assert direct.keys() == steps.keys()
    assert all(torch.equal(direct[name], steps[name]) for name in steps)
    assert both.signature_after() == {name: tuple(t.shape) for name, t in steps.items()}
    assert both.then(sct.Plan.identity(left.shrink(second.keep))) == both
    assert sct.Plan.identity(graph).then(both) == both


def test_plans_compose_in_order_only(graph, plan):
    with pytest.raises(PlanError, match=r"units after the first"):
        plan.then(plan)


def test_the_summary_shows_every_group(graph, plan):
    """Widths before and after, as a table."""
    text = plan.summary()

    assert all(f"{group.name} " in text for group in graph.groups)
    assert text.splitlines()[1].split()[1:] == ["6", "3", "50%"]
