"""Every criterion keeps one contract, whatever it measures; they are found by reflection, new ones too."""

import copy
import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import secateurs.criteria
from secateurs.criteria import BatchNormScale, GeometricMedian, Magnitude, Random, Taylor, score
from secateurs.errors import EvidenceError, InputError
from secateurs.evidence import Evidence, Gradients, Weights, observe
from secateurs.graph import trace
from secateurs.graph.groups import Group, Slice


def criteria(where=lambda needs: True):
    """One of each: every public dataclass that has (such) needs, with its default settings."""
    found = [getattr(secateurs.criteria, name) for name in secateurs.criteria.__all__]
    kinds = [c for c in found if isinstance(c, type) and dataclasses.is_dataclass(c) and hasattr(c, "needs")]
    return [pytest.param(kind(), id=kind.__name__) for kind in kinds if where(kind().needs)]


class Net(nn.Module):
    """A residual stream, a depthwise convolution, and a flattened map, so that units own one and several entries."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.branch = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU())
        self.back = nn.Sequential(nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6))
        self.deep = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6 * 4, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.back(self.branch(x))).relu()
        return self.head(self.deep(x).flatten(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


@pytest.fixture(scope="module")
def graph(net):
    return trace(net, torch.zeros(1, 3, 4, 4, dtype=torch.float64))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64),
            torch.randint(4, (n,), generator=generator),
        )
        for n in (5, 3)
    ]


def test_the_network_has_what_makes_scoring_hard(graph):
    """A stream written by several layers, a depthwise convolution, units with several entries."""
    kinds = [{(s.role, s.index.shape[1]) for s in group.slices} for group in graph.groups]
    writers = [sum(s.role == "out" for s in group.slices) for group in graph.groups]

    assert len(graph.groups) >= 2
    assert any(("in", 4) in kind for kind in kinds)
    assert max(writers) >= 3


def relabelled(model, graph, permutations):
    """A copy of the model whose unit u is the old unit permutations[group][u]: the same function, other labels."""
    twin = copy.deepcopy(model)
    tensors = twin.state_dict()
    for group in graph.groups:
        perm = permutations[group.name]
        for s in group.slices:
            tensor, index = tensors[s.tensor], torch.as_tensor(s.index)
            tensor.index_copy_(s.dim, index.flatten(), tensor.index_select(s.dim, index[perm].flatten()))
    return twin


def scores(criterion, graph, model, data):
    return score(criterion, graph.groups, observe(graph, model, criterion, data=data))


@pytest.mark.parametrize("criterion", criteria())
class TestEveryCriterion:
    def test_gives_one_finite_float64_per_unit(self, criterion, graph, net, data):
        """Whatever the group, there is one number for each unit, and they differ."""
        found = scores(criterion, graph, net, data)

        assert list(found) == [group.name for group in graph.groups]
        for group in graph.groups:
            assert found[group.name].shape == (group.units,)
            assert found[group.name].dtype == torch.float64
            assert found[group.name].isfinite().all()
            assert found[group.name].unique().numel() > 1

    def test_gives_the_same_twice(self, criterion, graph, net, data):
        """Nothing is left to chance or to what ran before."""
        first = scores(criterion, graph, net, data)
        torch.rand(7)
        second = scores(criterion, graph, net, data)

        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_changes_nothing(self, criterion, graph, net, data):
        """Weights, buffers, gradients, modes and the generator are as before."""
        model = copy.deepcopy(net).train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        generator = torch.get_rng_state()
        scores(criterion, graph, model, data)

        assert torch.equal(generator, torch.get_rng_state())
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert all(module.training for module in model.modules())

    def test_scores_a_group_whatever_the_others(self, criterion, graph, net, data):
        """A group's scores do not depend on which groups are scored beside it, or in which order."""
        evidence = observe(graph, net, criterion, data=data)
        together = score(criterion, graph.groups, evidence)
        backwards = score(criterion, graph.groups[::-1], evidence)

        assert all(torch.equal(together[name], backwards[name]) for name in together)


@pytest.mark.parametrize("criterion", criteria(where=bool))
def test_sees_only_what_it_asked_for(criterion, graph, net, data):
    """Without its evidence it is refused in words."""
    with pytest.raises(EvidenceError, match="was not gathered"):
        criterion(graph.groups[0], Evidence({}))


@pytest.mark.parametrize("criterion", criteria(where=bool))
def test_follows_relabelling(criterion, graph, net, data):
    """Renaming units renames their scores: importance belongs to the unit, not to its position."""
    generator = torch.Generator().manual_seed(2)
    permutations = {g.name: torch.randperm(g.units, generator=generator) for g in graph.groups}
    before = scores(criterion, graph, net, data)
    after = scores(criterion, graph, relabelled(net, graph, permutations), data)

    for name, perm in permutations.items():
        assert not torch.equal(perm, torch.arange(len(perm)))
        torch.testing.assert_close(after[name], before[name][perm], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("criterion", criteria(where=lambda needs: set(needs.values()) <= {Weights}))
def test_scores_half_precision(criterion, graph, net):
    """Weights in bfloat16 are scored in float64, near the scores of the same weights in full."""
    half = copy.deepcopy(net).bfloat16()
    exact = scores(criterion, graph, copy.deepcopy(half).double(), None)
    found = scores(criterion, graph, half, None)

    for name, values in exact.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=0)


def test_relabelling_keeps_the_function(net, graph, data):
    """The relabelled copy of these tests computes what the model computes: else equivariance would mean nothing."""
    permutations = {g.name: torch.arange(g.units).roll(1) for g in graph.groups}
    net = copy.deepcopy(net).eval()
    twin = relabelled(net, graph, permutations)

    torch.testing.assert_close(twin(data[0][0]), net(data[0][0]), rtol=1e-10, atol=1e-12)


def one(role="out", tensor="w"):
    """A group of two units with one slice."""
    return Group("g", 2, (Slice(tensor, 0, np.array([[0], [1]]), role),))


def weights(**tensors):
    return Evidence({"weights": Weights({name: torch.tensor(values) for name, values in tensors.items()})})


def test_magnitude_refuses_other_norms():
    """Only the two norms that are documented."""
    with pytest.raises(InputError, match=r"Magnitude\(p=3\)"):
        Magnitude(p=3)


def test_magnitude_leaves_buffers_out():
    """Running statistics are no parameters."""
    group = Group("g", 2, (*one().slices, Slice("mean", 0, np.array([[0], [1]]), "stat")))
    evidence = Evidence(
        {"weights": Weights({"w": torch.tensor([1.0, 2.0]), "mean": torch.tensor([9.0, 9.0])}, frozenset({"mean"}))}
    )

    assert Magnitude()(group, evidence).tolist() == [1.0, 2.0]


def test_a_role_that_a_group_lacks_is_refused_by_name():
    """The error names the criterion, the group, and what the group has."""
    with pytest.raises(EvidenceError, match=r"Magnitude\(p=1, roles=\('out',\)\).*'g'.*w \(scale\)"):
        Magnitude(roles=("out",))(one("scale"), weights(w=[1.0, 2.0]))


def test_batch_norm_scale_names_all_groups_without_a_norm():
    """One error for all of them, not one at a time."""
    bare = [dataclasses.replace(one(), name=name) for name in ("a", "b")]

    with pytest.raises(EvidenceError, match=r"'a'.*2 groups: a, b"):
        score(BatchNormScale(), [*bare, one("scale")], weights(w=[1.0, 2.0]))


def test_batch_norm_scale_falls_back_where_there_is_no_norm():
    """With a fallback every group has scores; the fallback's needs have names of their own, and cannot clash."""
    criterion = BatchNormScale(fallback=Taylor())
    evidence = Evidence(
        {
            "weights": Weights({"w": torch.tensor([[1.0], [2.0]])}),
            "fallback.weights": Weights({"w": torch.tensor([[1.0], [2.0]])}),
            "fallback.gradients": Gradients({"w": torch.tensor([[3.0], [1.0]])}, 1),
        }
    )

    assert criterion.needs == {"weights": Weights, "fallback.weights": Weights, "fallback.gradients": Gradients}
    assert criterion(one(), evidence).tolist() == [9.0, 4.0]
    assert criterion(one("scale"), evidence).tolist() == [1.0, 2.0]


def test_random_is_the_same_in_every_process():
    """The numbers follow from seed and name alone; written down once, on another day."""
    assert Random(7)(Group("conv", 2, ()), Evidence({})).tolist() == pytest.approx(RANDOM_7_CONV)
    assert not torch.equal(Random(7)(Group("conv", 2, ()), Evidence({})), Random(8)(Group("conv", 2, ()), Evidence({})))
    assert not torch.equal(Random(7)(Group("conv", 2, ()), Evidence({})), Random(7)(Group("fc", 2, ()), Evidence({})))


RANDOM_7_CONV = [0.46414333296005195, 0.7179676374403778]


def test_equal_filters_are_nearest_to_the_median():
    """A filter that has a twin is easier to replace than one that has none."""
    group = Group("g", 3, (Slice("w", 0, np.arange(3)[:, None], "out"),))

    twin, other, lonely = GeometricMedian()(group, weights(w=[[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]])).tolist()

    assert twin == other < lonely


@pytest.mark.parametrize("wrong", [torch.zeros(3, dtype=torch.float64), torch.zeros(2)])
def test_score_refuses_another_shape_or_dtype(wrong):
    """A criterion from outside is held to the contract."""

    @dataclasses.dataclass(frozen=True)
    class Wrong:
        needs: ClassVar = {}

        def __call__(self, group, evidence):
            return wrong

    with pytest.raises(InputError, match=r"Wrong.*'g' of 2 units"):
        score(Wrong(), [one()], Evidence({}))
