"""Plans that insert units: what they compute, how they compose, and how they are saved."""

import copy
import json

import numpy as np
import pytest
import torch
from tests.laws.loops import LESSONS, METHODS, pupil, session
from tests.laws.networks import Coupled, Tied, images, made

import secateurs as sct
from secateurs.errors import InputError, PlanError, StoreError
from secateurs.running.compare import relative_error
from secateurs.surgery.copies import insert, plan_with_copies, unit_shares
from secateurs.surgery.plan import Plan

BOTH = pytest.mark.parametrize("kind", [Tied, Coupled], ids=lambda kind: kind.__name__)


def outputs(model):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images(3).double())


def traced(kind):
    model = made(kind).double().eval()
    return model, sct.trace(model, images().double())


def chosen(rng, graph, least=1):
    """Any units of some groups, some of them gone and some copied."""
    return {
        g.name: sorted(rng.integers(0, g.units, rng.integers(least, g.units + 3)).tolist())
        for g in graph.groups
        if rng.random() < 0.7
    }


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_a_plan_with_copies_is_its_masked_twin(kind, seed):
    """Removed units silent, copies read as one: float64 outputs agree (1e-9), and shapes are those it says."""
    model, graph = traced(kind)
    plan = plan_with_copies(graph, chosen(np.random.default_rng(seed), graph))
    twin = outputs(sct.mask(plan, model))
    changed = sct.apply(plan, copy.deepcopy(model))

    assert relative_error(outputs(changed), twin) < 1e-9
    assert {name: tuple(t.shape) for name, t in changed.state_dict().items()} == {
        name: shape for name, shape in plan.signature_after().items() if name in changed.state_dict()
    }
    assert sct.verify(plan, model, images().double()).passed
    assert sct.trace(changed, images().double()).cost() == graph.cost(plan)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_plans_compose(kind, seed):
    """Growth, removal and growth again in a row are one plan, with one value of every weight."""
    model, graph = traced(kind)
    rng = np.random.default_rng(seed)
    while True:  # a new trace sees no group of one unit, nor one whose width happens to be that of something else
        first = plan_with_copies(graph, chosen(rng, graph, least=2))
        step = sct.apply(first, copy.deepcopy(model))
        left = sct.trace(step, images().double())
        if {g.name: g.units for g in left.groups} == {name: len(units) for name, units in first.keep.items()}:
            break
    second = plan_with_copies(left, chosen(rng, left))
    both = first.then(second)
    at_once, in_turn = sct.apply(both, copy.deepcopy(model)), sct.apply(second, step)

    for (name, a), b in zip(at_once.state_dict().items(), in_turn.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0, msg=name)
    assert Plan.from_json(both.to_json()) == both


@BOTH
def test_growth_is_a_plan_with_copies(kind):
    """`grow` and the plan give the same weights, bit for bit; what only loses units is the plan that it always was."""
    model, graph = traced(kind)
    group = graph.groups[0]
    grown = sct.grow(graph, copy.deepcopy(model), units={group.name: [1, 1, 2]})
    plan = plan_with_copies(graph, {group.name: sorted((*range(group.units), 1, 1, 2))})
    applied = sct.apply(plan, copy.deepcopy(model))

    for a, b in zip(grown.state_dict().values(), applied.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    fewer = {g.name: range(1, g.units) for g in graph.groups[:2]}
    assert plan_with_copies(graph, fewer) == Plan.from_keep(graph, fewer)


@BOTH
def test_shares_are_known_unit_by_unit(kind):
    """Read off the tensors, they are those that insertion in steps gives."""
    _, graph = traced(kind)
    group = graph.groups[0]
    kept, shares = np.arange(group.units), [1.0] * group.units
    for _ in range(2):
        parents = np.random.default_rng(len(kept)).integers(0, len(kept), 3).tolist()
        kept, shares = insert(kept, shares, parents)
    plan = plan_with_copies(graph, {group.name: kept.tolist()}, {group.name: shares})

    assert unit_shares(graph, plan, group.name) == tuple(shares)
    assert plan.copies == {group.name: len(kept) - group.units}


@BOTH
def test_what_was_saved_is_loaded_bit_for_bit(kind, tmp_path):
    """Onto a freshly built dense model; the state dict sliced by the plan is the same."""
    model, graph = traced(kind)
    plan = plan_with_copies(graph, {g.name: [0, 1, 1, *range(2, g.units - 1)] for g in graph.groups})
    changed = sct.apply(plan, copy.deepcopy(model))
    sct.save(changed, plan, tmp_path / "saved")
    loaded = sct.load(made(kind).double(), tmp_path / "saved")

    assert sct.load_plan(tmp_path / "saved") == plan
    for (name, a), b in zip(changed.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, plan.slice(model.state_dict())[name])
    assert relative_error(outputs(changed), outputs(loaded.eval())) == 0


def test_a_session_that_inserts_gives_a_plan(tmp_path):
    """Removals and insertions in turn: the plan leads from the first network to the last, is saved, and verifies."""
    dense = pupil().double()
    held = session(copy.deepcopy(dense), METHODS["AdaptivePruning"])
    run = held._run
    x = LESSONS[0][0].double()
    run.grow({"first": [1, 1, 4]}, "by hand")
    run.remove({"first": [0, 2]}, "by hand")
    run.compact()
    run.grow({"first": [0], "down": [3]}, "by hand")
    run.remove({"stem": [5]}, "by hand")
    run.compact()
    plan = run.plan

    assert sct.verify(plan, dense, x).passed
    torch.testing.assert_close(sct.apply(plan, copy.deepcopy(dense)).eval()(x), run.model.eval()(x), rtol=1e-9, atol=0)
    assert plan.copies == {"first": 3, "down": 1}
    sct.save(run.model, plan, tmp_path / "saved")
    assert torch.equal(sct.load(pupil().double(), tmp_path / "saved").eval()(x), run.model(x))


def test_a_session_that_inserted_goes_on_in_a_fresh_network():
    """From its state alone: widths, where units come from, their shares."""
    first, second = (session(pupil(), METHODS["AdaptivePruning"]) for _ in range(2))
    first._run.grow({"first": [1, 1, 4]}, "by hand")
    first._run.remove({"first": [0], "down": [2]}, "by hand")
    first._run.compact()
    second.load_state_dict(first.state_dict())

    assert second._run.plan == first._run.plan
    shapes = [{name: t.shape for name, t in one.model.state_dict().items()} for one in (first, second)]
    assert shapes[0] == shapes[1]


@BOTH
def test_a_copy_may_outlive_what_it_was_copied_from(kind):
    """With its share alone, as a value and from JSON."""
    model, graph = traced(kind)
    name = graph.groups[0].name
    grown = plan_with_copies(graph, {name: [0, 0, *range(1, graph.groups[0].units)]})
    step = sct.apply(grown, copy.deepcopy(model))
    left = sct.trace(step, images().double())
    plan = grown.then(Plan.from_keep(left, {name: range(1, left.group(name).units)}))

    assert plan.copies == {}
    assert unit_shares(graph, plan, name)[:2] == (0.6, 1.0)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert sct.verify(again, model, images().double(), graph=graph).passed


DAMAGE = {
    "share above one": lambda d: set_first(d["shares"], 1.5),
    "share of nothing": lambda d: set_first(d["shares"], 0.0),
    "share of not a number": lambda d: set_first(d["shares"], float("nan")),
    "too few shares": lambda d: next(iter(next(iter(d["shares"].values())).values())).pop(),
    "shares of what is not cut": lambda d: d["shares"].update({"nobody": {"0": [0.5]}}),
    "a dimension of a thousand times": lambda d: d["tensors"].update(
        {next(iter(d["tensors"])): {"0": ",".join(["0-1"] * 40_000)}}
    ),
    "units that fall": lambda d: next(iter(d["groups"].values())).update(keep="1,0"),
    "copies in the older format": lambda d: d.update(format=1),
    "a format to come": lambda d: d.update(format=3),
}


def set_first(shares, value):
    dims = next(iter(shares.values()))
    next(iter(dims.values()))[0] = value


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_plans_are_refused(damage):
    """By a PlanError, before anything is built from them."""
    _, graph = traced(Coupled)
    plan = plan_with_copies(graph, {graph.groups[0].name: [0, 0, 1, 2]})
    document = json.loads(plan.to_json())
    damage(document)

    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(document))


def test_units_that_cannot_be_are_refused():
    """Out of order, out of range, none; shares for other units; groups that cannot grow."""
    _, graph = traced(Coupled)
    name, units = graph.groups[0].name, graph.groups[0].units
    for wrong in ([1, 0], [units], [-1], []):
        with pytest.raises(InputError, match="ascend"):
            plan_with_copies(graph, {name: wrong})
    for wrong in ([0.5], [0.5, 2.0], [0.5, 0.0]):
        with pytest.raises(InputError, match="shares"):
            plan_with_copies(graph, {name: [0, 0]}, {name: wrong})
    norm = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 2))
    with pytest.raises(InputError, match="cannot grow"):
        plan_with_copies(sct.trace(norm, torch.zeros(1, 4)), {"0": [0, 0]})


def test_a_hostile_folder_is_refused(tmp_path):
    """Shapes that the weights do not have, behind an honest seal."""
    from secateurs.store.manifest import seal

    model, graph = traced(Coupled)
    plan = plan_with_copies(graph, {graph.groups[0].name: [0, 0, 1, 2]})
    sct.save(sct.apply(plan, copy.deepcopy(model)), plan, tmp_path / "saved")
    file = tmp_path / "saved" / "plan.json"
    body = json.loads(file.read_text())
    body["plan"] = json.loads(plan_with_copies(graph, {graph.groups[0].name: [0, 0, 0, 1, 2]}).to_json())
    del body["seal"]
    file.write_text(json.dumps({**body, "seal": seal(body)}))
    fresh = made(Coupled).double()
    before = copy.deepcopy(fresh.state_dict())

    with pytest.raises(StoreError):
        sct.load(fresh, tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), fresh.state_dict().values(), strict=True))
