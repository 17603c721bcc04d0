"""Widths within a time: the exact choice is exact, its prediction follows what was measured, slower is refused."""

import dataclasses
import itertools
import types
from functools import partial

import numpy as np
import pytest
import torch
from tests.contracts.test_device import X, network
from torch import nn

import secateurs as sct
from secateurs.allocate import Ranked
from secateurs.allocate.choice import Pairwise, choose
from secateurs.allocate.exact import Losses
from secateurs.deploy import closed_loop
from secateurs.deploy.calibrate import drawn
from secateurs.deploy.latency import elasticities, log_shares
from secateurs.deploy.predict import Predictor
from secateurs.deploy.rig import Rig
from secateurs.deploy.segment_table import Table, needed
from secateurs.deploy.segments import Segment, find_segments
from secateurs.deploy.stopwatch import Measurement, Ratio
from secateurs.deploy.worth import of_losses, of_scores
from secateurs.errors import BudgetError, DeviceError


def problem(seed, groups=3, count=3):
    """Levels, values and a cost in which neighbours meet, all random."""
    random = np.random.default_rng(seed)
    levels = [np.sort(random.choice(np.arange(1, 20), count, replace=False)) for _ in range(groups)]
    values = [np.sort(random.random(count)) for _ in range(groups)]
    single, pair = random.random(groups), random.random(groups - 1)

    def cost(widths):
        w = np.asarray(widths, float)
        return 1.0 + w @ single + (w[..., :-1] * w[..., 1:]) @ pair

    whole = np.array([counts[-1] for counts in levels])
    return levels, values, cost, whole


@pytest.mark.parametrize("seed", range(8))
def test_the_choice_is_the_best_of_all(seed):
    """Against every combination: within the limit, and none within it is worth more."""
    levels, values, cost, whole = problem(seed)
    limit = 0.5 * float(cost(whole))
    everything = list(itertools.product(*(range(len(counts)) for counts in levels)))
    fits = [ks for ks in everything if cost([counts[k] for counts, k in zip(levels, ks, strict=True)]) <= limit]
    best = max((sum(v[k] for v, k in zip(values, ks, strict=True)) for ks in fits), default=None)
    found = choose(values, levels, whole, [(cost, limit)])

    assert (found is None) == (best is None)
    if found is not None:
        assert cost(found.widths) <= limit * (1 + 1e-6)
        assert found.value == pytest.approx(best, rel=2e-3)
        assert found.gap <= 1e-3


def test_two_limits_hold_at_once():
    levels, values, cost, whole = problem(1, groups=4)
    narrow = lambda widths: np.asarray(widths, float).sum(-1)  # noqa: E731 (a cost in one line)
    limit, least = 0.7 * float(cost(whole)), 0.6 * whole.sum()
    found = choose(values, levels, whole, [(cost, limit), (narrow, least)])

    assert cost(found.widths) <= limit * (1 + 1e-6)
    assert narrow(found.widths) <= least * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_tied_groups_take_the_same_level(seed):
    """And the choice is the best of those in which they do."""
    levels, values, cost, whole = problem(seed)
    limit = 0.6 * float(cost(whole))
    found = choose(values, levels, whole, [(cost, limit)], ties=[(0, 2)])
    everything = [ks for ks in itertools.product(range(3), repeat=3) if ks[0] == ks[2]]
    fits = [ks for ks in everything if cost([counts[k] for counts, k in zip(levels, ks, strict=True)]) <= limit]
    best = max(sum(v[k] for v, k in zip(values, ks, strict=True)) for ks in fits)

    assert list(levels[0]).index(found.widths[0]) == list(levels[2]).index(found.widths[2])
    assert found.value == pytest.approx(best, rel=2e-3)


def test_random_networks_hold_ties():
    levels = [np.arange(2, 11, 2), np.arange(5, 30), np.arange(4, 21, 4)]
    for row in drawn(levels, np.array([10, 29, 20]), [(0, 2)]):
        assert 2 * row[0] == row[2]


def test_equal_scores_within_macs_are_the_uniform_network():
    """Weights by elasticity: where time is MACs, the exact choice shrinks all groups alike."""
    widths = np.array([40, 400, 4000])
    levels = [np.arange(1, 11) * n // 10 for n in widths]

    def cost(w):
        w = np.asarray(w, float)
        return 640 * w[..., 0] ** 2 + 64 * w[..., 0] * w[..., 1] + w[..., 1] * w[..., 2]

    weights = elasticities(cost, widths)
    values = [k * log_shares(np.ones(n), counts) for k, n, counts in zip(weights, widths, levels, strict=True)]
    found = choose(values, levels, widths, [(cost, 0.36 * float(cost(widths)))])

    assert (found.widths / widths).tolist() == [0.6, 0.6, 0.6]


def test_a_pairwise_cost_is_exact():
    levels, _, cost, whole = problem(5, groups=4)
    written = Pairwise.of(cost, levels, whole)
    for ks in itertools.product(range(3), repeat=4):
        rebuilt = written.constant + sum(written.single[g][k] for g, k in enumerate(ks))
        rebuilt += sum(table[ks[g], ks[h]] for (g, h), table in written.double.items())
        assert rebuilt == pytest.approx(float(cost([counts[k] for counts, k in zip(levels, ks, strict=True)])))


def test_value_never_empties_a_group():
    """A group's last units are dearer than another's first, whatever their scale."""
    few = log_shares(np.full(16, 1e-6), np.arange(1, 17))
    many = log_shares(np.full(16, 1e6), np.arange(1, 17))

    assert np.allclose(few, many)
    assert np.all(np.diff(few) > 0)
    assert np.all(np.diff(few, 2) < 0)


def test_segments_are_those_of_the_pruned_network():
    """The widths that the links give are the widths of the layers after pruning."""
    model = network()
    graph = sct.trace(model, X)
    result = sct.prune(model, X, method="l2", budget=sct.Budget(macs=0.4, multiple_of=1))
    widths = np.array([len(result.plan.keep[group.name]) for group in graph.groups])
    found = {place.module: place for place in find_segments(graph, model, X)}
    pruned = {place.module: place for place in find_segments(sct.trace(result.model, X), result.model, X)}

    assert found.keys() == pruned.keys() == {"0", "3", "4", "8"}
    for name, place in found.items():
        cin, cout = place.widths(widths)
        assert (cin, cout) == (pruned[name].segment.cin, pruned[name].segment.cout)
        assert place.segment.family == pruned[name].segment.family


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_segment_runs_alone(runtime):
    """The one node that stands for a layer puts out what the layer has as outputs."""
    for segment in (Segment(4, 6, (5, 5), (3, 3), (2, 2), (1, 1), (1, 1)), Segment(4, 6, (2,))):
        (out,) = segment.program(sct.Device(runtime)).outputs()
        assert out.shape == segment.module()(segment.example()).shape


def test_a_calibrated_sum_predicts_what_it_is_made_of():
    """Times that are a + b Σ segments + c bytes are found again, with no error on what was left out."""
    model = network()
    graph = sct.trace(model, X)
    placed = find_segments(graph, model, X)
    table = Table({})
    for segment in needed(placed, 8):
        table.seconds.setdefault(segment.family, {})[segment.cin, segment.cout] = 1e-6 * (
            1 + segment.cin * segment.cout
        )
    random = np.random.default_rng(0)
    rows = np.stack([graph.widths, *(random.integers(8, graph.widths + 1) for _ in range(9))])
    unfitted = Predictor(placed, table, graph.costs, 8, rows, np.ones(len(rows)))
    true = unfitted._parts(rows) @ np.array([1e-4, 2.0, 2.0, 2.0, 1e-9])
    fitted = dataclasses.replace(unfitted, ratios=true / true[0])

    assert fitted.error < 1e-3
    assert fitted.at(rows) == pytest.approx(true / true[0], rel=1e-3)


def test_a_prediction_learns_what_was_measured():
    """Where depthwise layers are slower than alone, their factor grows with the networks that are measured."""
    model = network()
    graph = sct.trace(model, X)
    placed = find_segments(graph, model, X)
    table = Table({})
    for segment in needed(placed, 8):
        table.seconds.setdefault(segment.family, {})[segment.cin, segment.cout] = 1e-6 * segment.cin
    random = np.random.default_rng(0)
    rows = np.stack([graph.widths, *(random.integers(8, graph.widths + 1) for _ in range(9))])
    before = Predictor(placed, table, graph.costs, 8, rows, np.ones(len(rows)))
    true = before._parts(rows) @ np.array([1e-5, 1.0, 1.0, 4.0, 0.0])
    after = dataclasses.replace(before, ratios=true / true[0])

    assert after.at(rows) == pytest.approx(true / true[0], rel=0.03)
    assert len(after.also(rows[1], 0.5).ratios) == 11


class FakeRig:
    """A device on which a network takes its MACs' time, or what `slow` makes of it."""

    def __init__(self, graph, slow=lambda widths: 1.0):
        self.graph, self.slow = graph, slow
        self.device = types.SimpleNamespace(name="a fake", grid=sct.Alignment())

    def seconds(self, keep):
        widths = np.array([len(keep.get(g.name, range(g.units))) for g in self.graph.groups])
        return 1e-9 * float(self.graph.costs.at(widths)[0]) * self.slow(widths)

    def build(self, keep):
        return keep

    def measure(self, programs):
        dense, *rest = map(self.seconds, [{}, *programs])
        first = Measurement(dense, dense, dense, 9, 0, "wall", 1e-3, "a fake")
        return (first, *(dataclasses.replace(first, median=s, ratio=Ratio(s / dense, 1e-3)) for s in rest))


@pytest.fixture
def graph():
    return sct.trace(network(32), X)


def scores(graph):
    return {group.name: torch.arange(1.0, group.units + 1) for group in graph.groups}


def test_a_slower_network_is_refused(graph):
    """Unless one insists."""
    rig = FakeRig(graph, lambda widths: 3.0 if (widths % 8).any() else 1.0)
    keep = {g.name: np.arange(g.units - 1) for g in graph.groups}
    with pytest.raises(BudgetError, match="slower is refused"):
        closed_loop.guarded(rig, keep, sct.Budget(macs=0.9), None)
    handed, timing = closed_loop.guarded(rig, keep, sct.Budget(macs=0.9, allow_slower=True), None)

    assert handed is keep
    assert timing.pruned.median > timing.dense.median


def test_aligned_widths_replace_slower_ones(graph):
    """Of as many MACs, the faster is handed over."""
    rig = FakeRig(graph, lambda widths: 3.0 if (widths % 8).any() else 1.0)
    keep = {g.name: np.arange(g.units - 1) for g in graph.groups}
    handed, timing = closed_loop.guarded(rig, keep, sct.Budget(macs=0.9), partial(Ranked(), scores(graph), graph))

    assert all(len(kept) % 8 == 0 for kept in handed.values())
    assert timing.pruned.median < timing.dense.median


def test_a_method_of_macs_meets_a_time(graph):
    """The MACs are corrected by what was measured."""
    rig = FakeRig(graph, lambda widths: 1.3)
    dense = sum(one.median for one in rig.measure([]))
    select = partial(Ranked(), scores(graph), graph)
    budget = sct.Budget(latency=0.5, device=sct.Device())
    _, timing = closed_loop.by_macs(rig, select, budget)

    assert timing.pruned.median <= 0.5 * dense * 1.03


class FakePredictor:
    """Predicts a device in which the first group is slow for its MACs."""

    error = 0.01

    def __init__(self, rig):
        self.rig = rig

    def at(self, widths):
        widths = np.asarray(widths)
        return 1e-9 * self.rig.graph.costs.at(widths)[..., 0] * self.rig.slow(widths) / self.rig.seconds({})

    def also(self, widths, ratio):
        return self

    def slowest(self, widths):
        return ["3", "4"]


@pytest.mark.parametrize("bias", [1.0, 1.3])
def test_a_time_is_met_with_more_macs_than_by_macs(graph, monkeypatch, bias):
    """Within 3 %, also where the prediction is wrong; at more MACs than the MACs plan that is as fast."""
    truth = FakeRig(graph, lambda widths: 1.0 + 4.0 * (widths[..., 0] / graph.widths[0]) ** 2)
    dense = truth.seconds({})
    rig = FakeRig(
        graph, lambda widths: bias * truth.slow(widths) if (widths < graph.widths).any() else truth.slow(widths)
    )
    monkeypatch.setattr(closed_loop, "calibrated", lambda *_: (FakePredictor(truth), dense))
    budget = sct.Budget(latency=0.5, device=sct.Device(), multiple_of=1)
    keep, timing = closed_loop.by_time(rig, of_scores(graph, scores(graph), budget), budget)
    macs = lambda kept: graph.cost(sct.Plan.from_keep(graph, kept)).macs  # noqa: E731 (a cost in one line)
    select = partial(Ranked(), scores(graph), graph)
    shares = (select(sct.Budget(macs=share)) for share in np.linspace(0.9, 0.1, 200))
    plain = next(kept for kept in shares if rig.seconds(kept) <= 0.5 * dense)

    assert timing.pruned.median == pytest.approx(0.5 * dense, rel=0.03)
    assert macs(keep) > 1.02 * macs(plain)
    assert timing.gap <= 1e-3


def test_a_time_out_of_reach_names_what_binds(graph, monkeypatch):
    rig = FakeRig(graph)
    monkeypatch.setattr(closed_loop, "calibrated", lambda *_: (FakePredictor(rig), rig.seconds({})))
    budget = sct.Budget(latency=0.01, device=sct.Device(), min_keep_fraction=0.5)
    with pytest.raises(BudgetError, match=r"smallest widths .* most of it in 3, 4"):
        closed_loop.by_time(rig, of_scores(graph, scores(graph), budget), budget)


def test_measured_losses_decide_within_a_time(graph, monkeypatch):
    """Of the widths offered that take the time, those that lose least, whatever MACs they keep."""
    truth = FakeRig(graph, lambda widths: 1.0 + 4.0 * (widths[..., 0] / graph.widths[0]) ** 2)
    monkeypatch.setattr(closed_loop, "calibrated", lambda *_: (FakePredictor(truth), truth.seconds({})))
    random = np.random.default_rng(0)
    lost = {g.name: np.append(0.0, np.sort(random.random(g.units)).cumsum()) for g in graph.groups}
    losses = Losses({g.name: random.permutation(g.units) for g in graph.groups}, lost)
    budget = sct.Budget(latency=0.5, device=sct.Device(), multiple_of=8)
    worth = of_losses(graph, losses, budget)
    keep, timing = closed_loop.by_time(truth, worth, budget)
    every = np.array(list(itertools.product(*worth.allowed)))
    fits = every[FakePredictor(truth).at(every) <= 0.5 * (1 + closed_loop.CLOSE)]
    least = min(losses.total(graph, row) for row in fits)

    assert timing.ratio <= 0.5 * 1.03
    assert losses.total(graph, np.array([len(keep[g.name]) for g in graph.groups])) <= least * 1.001
    assert all(set(keep[name]) == set(order[len(order) - len(keep[name]) :]) for name, order in losses.orders.items())


def test_a_busy_machine_decides_nothing(graph):
    rig = object.__new__(Rig)
    noisy = Measurement(1.0, 0.1, 2.0, 9, 0.9, "wall", 0.2, "a fake")
    rig.device = types.SimpleNamespace(race=lambda programs, seconds: (noisy, noisy))
    rig._dense, rig._seconds = None, 1.0
    with pytest.raises(DeviceError, match="too busy"):
        rig.measure([None])


@pytest.mark.slow
def test_prune_meets_a_time_on_this_machine(tmp_path):
    """A network of convolutions is taken to 60 % of its time in PyTorch; the table is kept."""
    torch.manual_seed(0)
    layers = [m for c, d in ((3, 64), (64, 64), (64, 128)) for m in (nn.Conv2d(c, d, 3, padding=1), nn.ReLU())]
    model, x = nn.Sequential(*layers).eval(), torch.zeros(1, 3, 48, 48)
    device = sct.Device("eager", table=tmp_path / "table.json")
    if not (found := device.measure(model, x)).steady:
        pytest.skip(f"the machine is busy: {found}")
    result = sct.prune(model, x, method="l2", budget=sct.Budget(latency=0.6, device=device))

    assert result.timing.pruned.median <= 0.6 * 1.06 * result.timing.dense.median
    assert Table.of(device, device.table).seconds
