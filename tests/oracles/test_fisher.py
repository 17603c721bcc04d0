"""Taps against autograd through an explicit per-sample gate, and Group Fisher's sums against loops."""

import copy
import pickle

import numpy as np
import pytest
import torch
from tests.laws.loops import HALF, LESSONS, X, pupil, sgd, train
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.graph.groups import Group, Site
from secateurs.methods.group_fisher import GroupFisher
from secateurs.methods.group_fisher.gradients import Taps
from secateurs.session.flat_units import Ledger


def identity(units, each=1):
    return np.arange(units * each).reshape(units, each)


class Residual(nn.Module):
    """A stream read by two convolutions and a classifier, with an identity shortcut between them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 4, 3)

    def forward(self, x, gate=None):
        def g(t, positions=1):
            return (
                t if gate is None else t * gate.repeat_interleave(positions, 1).view(*t.shape[:2], *[1] * (t.dim() - 2))
            )

        x = F.relu(self.stem(x))
        x = x + F.relu(self.a(g(x)))
        x = x + F.relu(self.b(g(x)))
        return self.head(g(F.adaptive_avg_pool2d(x, 2).flatten(1), 4))


SITES = (
    Site("a", "input", 1, identity(4), reads=True),
    Site("b", "input", 1, identity(4), reads=True),
    Site("head", "input", 1, identity(4, 4), reads=True),
)
LEDGER = Ledger.of([Group("stream", 4, ())])


def batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 5, 5, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def leaf_gate(model, x, y):
    """dL_n/dm for every sample by autograd through a leaf of ones shared by all consumers."""
    gate = torch.ones(len(x), 4, requires_grad=True)
    loss = F.cross_entropy(model(x, gate), y, reduction="sum")
    return torch.autograd.grad(loss, gate)[0]


def tapped(model):
    taps = Taps(model, LEDGER, {"stream": SITES})
    taps.open()
    return taps


def test_a_tap_is_the_per_sample_leaf_gate():
    """Coupled members are added with their signs, then squared per sample, then summed."""
    torch.manual_seed(0)
    model = Residual()
    x, y = batch()
    z = leaf_gate(model, x, y)
    taps = tapped(model)
    F.cross_entropy(model(x), y).backward()
    taps.fold()

    torch.testing.assert_close(taps.total, z.square().sum(0), rtol=1e-5, atol=1e-7)
    assert taps.samples == 6
    members = sum(leaf_gate_of(model, x, y, m).square() for m in range(3)).sum(0)
    assert not torch.allclose(taps.total, members, rtol=0.05), "squaring before summing would be another statistic"


def leaf_gate_of(model, x, y, member):
    """The same with a gate at one consumer only."""
    gate = torch.ones(len(x), 4, requires_grad=True)
    names = ["a", "b", "head"]

    def hook(module, args):
        each = 4 if names[member] == "head" else 1
        t = args[0]
        return (t * gate.repeat_interleave(each, 1).view(*t.shape[:2], *[1] * (t.dim() - 2)),)

    handle = getattr(model, names[member]).register_forward_pre_hook(hook)
    loss = F.cross_entropy(model(x), y, reduction="sum")
    handle.remove()
    return torch.autograd.grad(loss, gate)[0]


def test_taps_change_no_gradient_and_leave_no_trace():
    torch.manual_seed(0)
    model, x, y = Residual(), *batch()
    F.cross_entropy(model(x), y).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    taps = tapped(model)
    F.cross_entropy(model(x), y).backward()

    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True))
    taps.close()
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_the_batch_sum_is_the_weight_gradient_product():
    """Σ_n z of a single consumer equals Σ W·∂L/∂W over its slice (summed loss): an independent cross-check."""
    torch.manual_seed(1)
    model, (x, y) = Residual().double(), batch()
    x = x.double()
    z = leaf_gate_of(model, x, y, 0)
    grad = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), model.a.weight)[0]

    torch.testing.assert_close(z.sum(0).double(), (model.a.weight * grad).sum((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_accumulated_micro_batches_are_one_batch():
    torch.manual_seed(0)
    model, x, y = Residual(), *batch(8)
    taps = tapped(model)
    F.cross_entropy(model(x), y).backward()
    taps.fold()
    whole = taps.total.clone()
    taps.reset()
    for part in (slice(0, 4), slice(4, 8)):
        F.cross_entropy(model(x[part]), y[part]).backward()
    taps.fold()

    torch.testing.assert_close(taps.total, whole, rtol=1e-5, atol=1e-7)
    assert taps.samples == 8


def test_short_batches_weigh_as_their_samples_do():
    """Σ over batches of any sizes equals Σ over samples, because z is scaled by the batch size."""
    torch.manual_seed(0)
    model, x, y = Residual(), *batch(7)
    expected = leaf_gate(model, x, y).square().sum(0)
    taps = tapped(model)
    for part in (slice(0, 1), slice(1, 3), slice(3, 7)):
        F.cross_entropy(model(x[part]), y[part]).backward()
    taps.fold()

    torch.testing.assert_close(taps.total, expected, rtol=1e-5, atol=1e-7)


def test_two_forwards_before_one_backward():
    """A siamese loss: two passes, each with its own samples, one backward."""
    torch.manual_seed(0)
    model, x, y = Residual(), *batch(6)
    expected = leaf_gate(model, x[:3], y[:3]).square().sum(0) + leaf_gate(model, x[3:], y[3:]).square().sum(0)
    taps = tapped(model)
    (F.cross_entropy(model(x[:3]), y[:3]) + F.cross_entropy(model(x[3:]), y[3:])).backward()
    taps.fold()

    torch.testing.assert_close(taps.total, expected, rtol=1e-5, atol=1e-7)


def test_an_overflowing_pass_counts_for_nothing():
    torch.manual_seed(0)
    model, x, y = Residual(), *batch()
    taps = tapped(model)
    F.cross_entropy(model(x), y).backward()
    taps.fold()
    before = taps.total.clone()
    (F.cross_entropy(model(x), y) * float("inf")).backward()
    taps.fold()

    assert torch.equal(taps.total, before)


def test_evaluation_is_not_tapped():
    model, x, y = Residual(), *batch()
    taps = tapped(model)
    with torch.no_grad():
        model(x)
    model.eval()
    F.cross_entropy(model(x), y).backward()
    taps.fold()

    assert taps.samples == 0


def test_copies_and_pickles_of_a_tapped_model_are_dead():
    """An EMA copy trains and predicts without touching the session's sums."""
    torch.manual_seed(0)
    model, x, y = Residual(), *batch()
    taps = tapped(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        F.cross_entropy(twin(x), y).backward()
    taps.fold()

    assert taps.samples == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # raised inside torch._dynamo itself
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_taps_survive_torch_compile(backend):
    torch.manual_seed(0)
    model, x, y = Residual(), *batch()
    expected = leaf_gate(model, x, y).square().sum(0)
    taps = tapped(model)
    compiled = torch.compile(model, backend=backend)
    F.cross_entropy(compiled(x), y).backward()
    taps.fold()

    torch.testing.assert_close(taps.total, expected, rtol=1e-4, atol=1e-6)


def test_a_shared_head_adds_its_uses():
    """A convolution applied to two maps has one mask: contributions of both uses add before squaring."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(2, 4, 3)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x, gate=None):
            x = F.relu(self.stem(x))
            x = x if gate is None else x * gate[:, :, None, None]
            return self.head(x).mean((1, 2, 3)) * 3 + self.head(F.max_pool2d(x, 2)).square().mean((1, 2, 3))

    torch.manual_seed(0)
    model, (x, _) = Shared(), batch()
    gate = torch.ones(6, 4, requires_grad=True)
    z = torch.autograd.grad(model(x, gate).sum(), gate)[0]
    taps = Taps(model, LEDGER, {"stream": (Site("head", "input", 1, identity(4), reads=True),)})
    taps.open()
    model(x).mean().backward()
    taps.fold()

    torch.testing.assert_close(taps.total, z.square().sum(0), rtol=1e-4, atol=1e-7)


# --- the driver ---


def brute_scores(model, batches):
    """Group Fisher's sums for the small network by explicit per-sample gates, one leaf per group."""
    reads = {"stem": ["first", "down"], "first": ["second"], "down": ["head"]}
    total = dict.fromkeys(reads, 0.0)
    for x, y in batches:
        gates = {n: torch.ones(len(x), w, requires_grad=True) for n, w in (("stem", 8), ("first", 10), ("down", 12))}
        handles = []
        for name, consumers in reads.items():
            for consumer in consumers:

                def hook(module, args, gate=gates[name]):
                    return (args[0] * gate.view(*gate.shape, *[1] * (args[0].dim() - 2)),)

                handles.append(getattr(model, consumer).register_forward_pre_hook(hook))
        loss = F.cross_entropy(model(x), y, reduction="sum")
        for name, z in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
            total[name] = total[name] + z.square().sum(0)
        for handle in handles:
            handle.remove()
    return total


ELEMENTS = {"stem": 2 * 36, "first": 36, "down": 4}
"""Elements that a unit writes: 6×6 maps by stem and second, by first; a 2×2 map by down."""


@pytest.mark.parametrize("normaliser", ["memory", "macs", "none"])
def test_the_first_unit_to_go_is_the_brute_force_minimum(normaliser):
    """Scores over d steps, divided by what the unit saves; the least of the whole network goes."""
    torch.manual_seed(0)
    model = pupil().eval()
    graph = sct.trace(model, X)
    dense = graph.cost().macs
    saved = {g.name: dense - int(graph.costs.at([w.units - (w is g) for w in graph.groups])[0]) for g in graph.groups}
    per = {"memory": ELEMENTS, "macs": saved, "none": dict.fromkeys(ELEMENTS, 1)}[normaliser]
    scores = brute_scores(model, LESSONS[:3])
    least = min((float(s), name, i) for name, score in scores.items() for i, s in enumerate(score / per[name]))
    session = sct.Session(
        model,
        X,
        method=GroupFisher(every=3, normaliser=normaliser),
        budget=HALF,
        steps_per_epoch=200,
        epochs=1,
        shrink=False,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    session.attach(optimizer)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for x, y in LESSONS[:3]:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    assert session.history.of("removed")[0].removed == {least[1]: (least[2],)}
    assert session.history.of("removed")[0].step == 3


def test_one_unit_at_a_time_until_the_budget():
    """The paper's loop: one unit every d steps, sums start anew, and it stops as soon as the budget holds."""
    model = pupil()
    session = sct.Session(model, X, method=GroupFisher(every=2), budget=HALF, steps_per_epoch=40, epochs=3)
    optimizer = sgd(model)
    session.attach(optimizer)
    train(model, optimizer, 120)
    events = session.history.of("removed")
    target = sct.trace(pupil(), X).cost().macs // 2

    assert all(sum(map(len, e.removed.values())) == 1 for e in events)
    assert [e.step for e in events] == list(range(2, 2 * len(events) + 1, 2))
    assert events[-1].cost.macs <= target < events[-2].cost.macs


def test_floors_and_multiples_hold():
    """Minimum widths stay, and with multiples units go in blocks."""
    for budget in (sct.Budget(macs=0.4, min_keep=5), sct.Budget(macs=0.4, multiple_of=2)):
        model = pupil()
        session = sct.Session(
            model, X, method=GroupFisher(every=1, until=0.5), budget=budget, steps_per_epoch=40, epochs=1
        )
        optimizer = sgd(model)
        session.attach(optimizer)
        train(model, optimizer, 40)
        session.finish()
        widths = [len(units) for units in session.plan.keep.values()]

        assert min(widths) >= budget.min_keep
        assert all(w % (budget.multiple_of or 1) == 0 for w in widths)


def test_frozen_layers_are_not_mistaken_for_unimportant_ones():
    """Behind a frozen stem no gradient reaches the first consumer, so its group cannot be scored and stays."""
    model = pupil()
    model.stem.requires_grad_(False)
    model.norm.requires_grad_(False)
    session = sct.Session(
        model, X, method=GroupFisher(every=1, until=0.5), budget=sct.Budget(macs=0.7), steps_per_epoch=40, epochs=1
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    session.attach(optimizer)
    train(model, optimizer, 40)
    session.finish()

    assert len(session.plan.keep["stem"]) == 8
    assert len(session.plan.keep["first"]) < 10


def test_grouped_convolutions_go_by_whole_groups():
    """A ResNeXt-like block: what is left of the grouped convolution has whole groups, and groups shrinks."""

    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 12, 3, padding=1)
            self.mid = nn.Conv2d(12, 12, 3, padding=1, groups=4)
            self.head = nn.Linear(12, 3)

        def forward(self, x):
            return self.head(F.relu(self.mid(F.relu(self.stem(x)))).mean((2, 3)))

    torch.manual_seed(0)
    model = Grouped()
    session = sct.Session(
        model, X, method=GroupFisher(every=1, until=0.5), budget=sct.Budget(macs=0.6), steps_per_epoch=40, epochs=1
    )
    optimizer = sgd(model, lr=0.01)
    session.attach(optimizer)
    train(model, optimizer, 40)
    small = session.finish()

    assert small.mid.weight.shape[0] == small.stem.weight.shape[0] < 12
    assert small.mid.weight.shape[0] % small.mid.groups == 0
    assert small(LESSONS[0][0]).shape == (12, 3)
