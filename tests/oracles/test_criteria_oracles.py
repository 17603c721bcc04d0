"""Criteria against slow, independent definitions: loops over units, entries and pairs, written from the formulas."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from secateurs.criteria import BatchNormScale, GeometricMedian, Magnitude, Taylor
from secateurs.evidence import Evidence, Gradients, Weights, observe
from secateurs.graph import trace
from secateurs.graph.groups import Group, Slice

ROLES = ["out", "in", "bias", "scale", "shift"]


@st.composite
def groups(draw, roles=ROLES):
    """A group over random tensors: any dimension, any order, several entries a unit, entries of no unit in between."""
    units = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    slices, tensors = [], {}
    for number in range(draw(st.integers(1, 3))):
        entries = draw(st.integers(1, 3))
        dims = draw(st.integers(1, 4))
        dim = draw(st.integers(0, dims - 1))
        shape = [draw(st.integers(1, 4)) for _ in range(dims)]
        shape[dim] = units * entries + draw(st.integers(0, 2))
        order = draw(st.permutations(range(dims)))
        # A permuted layout, as channels_last weights have.
        tensor = torch.randn([shape[d] for d in order], generator=generator, dtype=torch.float64)
        tensors[f"t{number}"] = tensor.permute(*np.argsort(order))
        index = torch.randperm(shape[dim], generator=generator)[: units * entries].reshape(units, entries).numpy()
        slices.append(Slice(f"t{number}", dim, index, draw(st.sampled_from(roles))))
    slices.append(Slice("mean", 0, np.arange(units)[:, None], "stat"))
    tensors["mean"] = torch.full((units,), 1e6, dtype=torch.float64)
    return Group("g", units, tuple(slices)), Weights(tensors, frozenset({"mean"}))


def entries_of(slice_, unit, tensor):
    """Every position of a tensor that belongs to a unit, one by one."""
    mine = {int(i) for i in slice_.index[unit]}
    for position in itertools.product(*map(range, tensor.shape)):
        if position[slice_.dim] in mine:
            yield position


@given(groups(), st.sampled_from([1, 2]), st.sampled_from([None, ("out",), ("in", "scale")]))
def test_magnitude_is_the_norm_of_all_entries(drawn, p, roles):
    """Entry by entry, in the roles asked for, buffers never."""
    group, weights = drawn
    chosen = [s for s in group.slices if s.tensor != "mean" and (roles is None or s.role in roles)]
    assume(chosen)
    expected = [
        sum(
            abs(weights.tensors[s.tensor][e].item()) ** p
            for s in chosen
            for e in entries_of(s, u, weights.tensors[s.tensor])
        )
        ** (1 / p)
        for u in range(group.units)
    ]

    found = Magnitude(p=p, roles=roles)(group, Evidence({"weights": weights}))

    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@given(groups(roles=["out", "in"]))
def test_geometric_median_is_the_sum_of_distances_over_pairs(drawn):
    """Pair by pair, over the concatenated filters."""
    group, weights = drawn
    chosen = [s for s in group.slices if s.role == "out"]
    assume(chosen)
    filters = [
        [weights.tensors[s.tensor].select(s.dim, int(i)).flatten().tolist() for s in chosen for i in s.index[u]]
        for u in range(group.units)
    ]
    flat = [[w for part in unit for w in part] for unit in filters]
    expected = [sum(math.dist(flat[u], flat[v]) for v in range(group.units)) for u in range(group.units)]

    found = GeometricMedian()(group, Evidence({"weights": weights}))

    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(groups(roles=["out", "in"]), st.integers(0, 2**31))
def test_taylor_is_the_squared_sum_of_weight_times_gradient(drawn, seed):
    """Entry by entry; contributions add before they are squared."""
    group, weights = drawn
    generator = torch.Generator().manual_seed(seed)
    gradients = {
        name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in weights.tensors.items()
    }
    chosen = [s for s in group.slices if s.role == "out"]
    assume(chosen)
    expected = [
        sum(
            weights.tensors[s.tensor][e].item() * gradients[s.tensor][e].item()
            for s in chosen
            for e in entries_of(s, u, weights.tensors[s.tensor])
        )
        ** 2
        for u in range(group.units)
    ]

    found = Taylor()(group, Evidence({"weights": weights, "gradients": Gradients(gradients, 1)}))

    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(groups(roles=["scale", "out"]))
def test_batch_norm_scale_sums_absolute_scales(drawn):
    """Entry by entry over scales alone."""
    group, weights = drawn
    chosen = [s for s in group.slices if s.role == "scale"]
    assume(chosen)
    expected = [
        sum(
            abs(weights.tensors[s.tensor][e].item())
            for s in chosen
            for e in entries_of(s, u, weights.tensors[s.tensor])
        )
        for u in range(group.units)
    ]

    found = BatchNormScale()(group, Evidence({"weights": weights}))

    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(1000, 7, 3, 3), (7, 1000, 3, 3), (3, 700, 100)])
def test_magnitude_is_right_across_blocks(shape):
    """Weights larger than one block, reduced along each dimension, in single precision."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for dim, p in itertools.product(range(len(shape)), (1, 2)):
        group = Group("g", shape[dim], (Slice("w", dim, np.arange(shape[dim])[:, None], "out"),))
        others = [d for d in range(len(shape)) if d != dim]
        expected = (tensor.double().abs() ** p).sum(others) ** (1 / p)

        found = Magnitude(p=p)(group, Evidence({"weights": Weights({"w": tensor})}))

        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def plain_net():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 3)
    ).double()


def test_taylor_predicts_the_change_of_the_loss():
    """On a real network, the root of the score is the derivative of the loss along the unit's gate."""
    model = plain_net()
    x, y = torch.randn(9, 2, 6, 6, dtype=torch.float64), torch.randint(3, (9,))
    graph = trace(model, x[:1])
    criterion = Taylor(roles=("out", "bias"))
    evidence = observe(graph, model, criterion, data=[(x[:4], y[:4]), (x[4:], y[4:])])
    for group in graph.groups:
        writer = model.get_submodule(group.name)
        for unit, found in enumerate(criterion(group, evidence).tolist()):
            losses = []
            for gate in (1 + 1e-5, 1 - 1e-5):
                twin = plain_net()
                twin.load_state_dict(model.state_dict())
                with torch.no_grad():
                    twin.get_submodule(group.name).weight[unit] = writer.weight[unit] * gate
                    twin.get_submodule(group.name).bias[unit] = writer.bias[unit] * gate
                    losses.append(F.cross_entropy(twin(x), y).item())
            slope = (losses[0] - losses[1]) / 2e-5

            assert found == pytest.approx(slope**2, rel=1e-4, abs=1e-12)
