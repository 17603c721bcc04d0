"""Every one-shot method keeps one contract, whatever its paper; they are found by reflection."""

import copy
import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs import methods
from secateurs.errors import BudgetError, EvidenceError
from secateurs.evidence import Weights
from secateurs.methods import CCP, FOAD, BackwardElimination, EPruner
from secateurs.methods.one_shot import part_of, producers
from secateurs.registry import kebab


def one_shot():
    """One of each: every public dataclass that selects, with its paper's settings."""
    found = [getattr(methods, name) for name in methods.__all__]
    return [kind for kind in found if dataclasses.is_dataclass(kind) and hasattr(kind, "select")]


every_method = pytest.mark.parametrize("kind", one_shot(), ids=lambda kind: kind.__name__)
every_scope = pytest.mark.parametrize("scope", ["coupled", "uncoupled"])


class Net(nn.Module):
    """A residual stream, a depthwise convolution, and a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10))
        self.branch = nn.Sequential(nn.Conv2d(10, 14, 3, padding=1, bias=False), nn.BatchNorm2d(14), nn.ReLU())
        self.back = nn.Sequential(nn.Conv2d(14, 10, 1, bias=False), nn.BatchNorm2d(10))
        self.wide = nn.Sequential(nn.Conv2d(10, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(12, 12, 3, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Linear(12 * 4, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.back(self.branch(x))).relu()
        return self.head(self.deep(self.wide(x)).flatten(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.1, 0.5)
    return model


@pytest.fixture(scope="module")
def graph(net):
    return sct.trace(net, torch.zeros(1, 3, 4, 4, dtype=torch.float64))


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 3, 4, 4, generator=g, dtype=torch.float64), torch.randint(4, (n,), generator=g)) for n in (9, 6)
    ]


def chosen(method, graph, model, data, **budget):
    return method.select(graph, model, sct.Budget(**budget), data=data, loss=None, seed=0)


def plan_of(graph, keep):
    return sct.Plan.from_keep(graph, keep)


DECIDING = {FOAD, EPruner, CCP}
"""Methods that say themselves how much goes; the others order removals."""


def unbudgeted(kind, scope):
    """The method as its paper runs it; CCP's paper is told the share."""
    return kind(scope=scope, keep=0.5) if kind is CCP else kind(scope=scope)


def test_the_three_papers_are_found():
    assert {kind.__name__ for kind in one_shot()} >= {"FOAD", "EPruner", "CCP"}


@every_method
class TestEveryMethod:
    @pytest.mark.parametrize("form", [torch.Tensor, None])
    def test_works_by_value_and_by_name(self, kind, net, data, form):
        """`prune` takes the method, or its name on the command line."""
        method = kind() if form else kebab(kind.__name__)
        example = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
        result = sct.prune(net, example, method=method, budget=sct.Budget(macs=0.6), data=data)

        assert result.cost_after.macs <= 0.6 * result.cost_before.macs
        result.model.eval()(data[0][0])

    def test_prunes_without_a_budget_what_it_selects_without_one(self, kind, net, graph, data):
        """`prune` hands the decision to the paper; a method that cannot decide says so."""
        if kind not in DECIDING:
            with pytest.raises(BudgetError, match=rf"{kind.__name__}\(\) was given no budget"):
                kind().select(graph, net, None, data=data)
            return
        method = unbudgeted(kind, "uncoupled")
        result = sct.prune(net, torch.zeros(1, 3, 4, 4, dtype=torch.float64), method=method, data=data)

        alone = plan_of(graph, method.select(graph, net, None, data=data))
        assert result.cost_after == graph.cost(alone)
        assert result.cost_after.macs < result.cost_before.macs

    def test_is_called_by_what_is_not_the_default(self, kind):
        """Messages name a method by its settings, without those that nobody changed; all prune streams unless told."""
        assert repr(kind(scope="uncoupled")).startswith(f"{kind.__name__}(")
        assert "scope=uncoupled" in repr(kind(scope="uncoupled"))
        assert kind().scope == "coupled"
        assert "scope" not in repr(kind())

    @every_scope
    @pytest.mark.parametrize("macs", [0.9, 0.6, 0.45])
    def test_meets_the_budget_to_within_one_unit(self, kind, scope, macs, graph, net, data):
        """Never above; and some group cannot have one unit more."""
        keep = chosen(kind(scope=scope), graph, net, data, macs=macs)
        target = int(macs * graph.cost().macs)

        assert graph.cost(plan_of(graph, keep)).macs <= target
        more = []
        for name, units in keep.items():
            spare = sorted(set(range(graph.group(name).units)) - set(units.tolist()))
            if spare:
                more.append(graph.cost(plan_of(graph, {**keep, name: [*units, spare[0]]})).macs)
        assert max(more) > target

    @every_scope
    def test_meets_several_constraints_and_floors(self, kind, scope, graph, net, data):
        """The tightest counts; floors and multiples hold."""
        budget = dict(macs=0.7, params=0.6, min_keep=3, min_keep_fraction=0.3, multiple_of=2)
        keep = chosen(kind(scope=scope), graph, net, data, **budget)
        cost, dense = graph.cost(plan_of(graph, keep)), graph.cost()

        assert cost.macs <= 0.7 * dense.macs
        assert cost.params <= 0.6 * dense.params
        for name, units in keep.items():
            assert len(units) % 2 == 0
            assert len(units) >= max(3, 0.3 * graph.group(name).units)

    def test_keeps_units_ascending_and_once(self, kind, graph, net, data):
        """Sorted indices make sliced tensors reproducible."""
        found = [chosen(kind(), graph, net, data, macs=0.6)]
        if kind in DECIDING:
            found.append(unbudgeted(kind, "coupled").select(graph, net, None, data=data))
        for keep in found:
            for name, units in keep.items():
                assert np.asarray(units).dtype == np.int64
                assert units.tolist() == sorted(set(units.tolist()))
                assert 0 <= units[0] <= units[-1] < graph.group(name).units

    def test_keeps_all_of_a_whole_budget(self, kind, graph, net, data):
        """Nothing is removed that need not be."""
        keep = chosen(kind(scope="coupled"), graph, net, data, macs=1.0)

        assert all(len(units) == graph.group(name).units for name, units in keep.items())

    def test_gives_the_same_twice(self, kind, graph, net, data):
        """Nothing is left to chance, or to what ran before."""
        first = chosen(kind(), graph, net, data, macs=0.6)
        torch.rand(7)
        second = chosen(kind(), graph, net, data, macs=0.6)

        assert {n: u.tolist() for n, u in first.items()} == {n: u.tolist() for n, u in second.items()}

    def test_changes_nothing(self, kind, graph, net, data):
        """Weights, buffers, gradients, modes, hooks and the generators are as before."""
        model = copy.deepcopy(net).train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        generator, precision = torch.get_rng_state(), torch.get_float32_matmul_precision()
        chosen(kind(), graph, model, data, macs=0.6)
        if kind in DECIDING:
            unbudgeted(kind, "uncoupled").select(graph, model, None, data=data)

        assert torch.equal(generator, torch.get_rng_state())
        assert precision == torch.get_float32_matmul_precision()
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())

    def test_refuses_to_run_without_data_that_it_needs(self, kind, graph, net):
        """Methods of weights alone need none; the others say what they need."""
        if set(kind().needs.values()) <= {Weights}:
            chosen(kind(), graph, net, None, macs=0.6)
            return
        with pytest.raises(EvidenceError, match=rf"{kind.__name__}\(.*no data was given"):
            chosen(kind(), graph, net, None, macs=0.6)

    def test_leaves_coupled_groups_whole_if_asked(self, kind, graph, net, data):
        """The papers prune no residual stream; a depthwise convolution does not make a stream."""
        with_streams, without = (
            chosen(kind(scope=scope), graph, net, data, macs=0.6) for scope in ("coupled", "uncoupled")
        )
        stream = next(g.name for g in graph.groups if len(producers(graph, g)) > 1)

        assert set(with_streams) == {g.name for g in graph.groups}
        assert set(without) == set(with_streams) - {stream}

    def test_honours_exclusions(self, kind, graph, net, data):
        """An excluded module's units stay, and are not measured."""
        keep = chosen(kind(scope="coupled"), graph, net, data, macs=0.7, exclude=("deep",))

        assert not {g.name for g in graph.groups if any(s.tensor.startswith("deep") for s in g.slices)} & set(keep)

    def test_says_what_it_left_whole(self, kind, graph, net, data):
        """A budget that cannot be reached: what binds, and which groups were out of reach."""
        with pytest.raises(BudgetError, match=rf"macs=0.01 asks for.*{kind.__name__}\(.*left 1 of 3 groups whole"):
            chosen(kind(scope="uncoupled"), graph, net, data, macs=0.01)

    def test_prunes_the_network_it_chose_for(self, kind, graph, net, data):
        """Removal equals silence for what it chose."""
        plan = plan_of(graph, chosen(kind(scope="coupled"), graph, net, data, macs=0.5))
        model = copy.deepcopy(net).eval()
        silent = sct.mask(plan, model)(data[0][0])

        torch.testing.assert_close(sct.apply(plan, model)(data[0][0]), silent, rtol=1e-9, atol=1e-12)


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


@pytest.mark.parametrize(
    "method",
    [
        EPruner(scope="coupled"),
        CCP(scope="coupled"),
        FOAD(scope="coupled", order="energy"),
        BackwardElimination(scope="coupled"),
    ],
    ids=["EPruner", "CCP", "FOAD by energy", "BackwardElimination"],
)
def test_relabelling_units_relabels_the_choice(method, graph, net, data):
    """What is kept belongs to the units, not to their positions. (FOAD's paper visits channels in index order.)"""
    g = torch.Generator().manual_seed(2)
    permutations = {group.name: torch.randperm(group.units, generator=g) for group in graph.groups}
    before = chosen(method, graph, net, data, macs=0.6)
    after = chosen(method, graph, relabelled(net, graph, permutations), data, macs=0.6)

    for name, perm in permutations.items():
        assert sorted(perm[after[name]].tolist()) == before[name].tolist()
    assert any(len(units) < graph.group(name).units for name, units in before.items())


@every_scope
def test_smaller_budgets_keep_subsets_under_foad(scope, graph, net, data):
    """FOAD's search is nested."""
    sets = [chosen(FOAD(scope=scope), graph, net, data, macs=macs) for macs in (0.95, 0.8, 0.7, 0.6, 0.5, 0.45)]

    for larger, smaller in pairwise(sets):
        assert all(set(units) <= set(larger[name]) for name, units in smaller.items())


def test_foad_to_the_budget_of_one_absorption_is_the_paper(graph, net, data):
    """Levels up to one are the paper's: its own cost as the budget gives its own set."""
    paper = FOAD().select(graph, net, None, data=data)
    budget = sct.Budget(macs=graph.cost(plan_of(graph, paper)).macs)
    found = FOAD().select(graph, net, budget, data=data)

    assert {n: u.tolist() for n, u in found.items()} == {n: u.tolist() for n, u in paper.items()}


def test_a_part_costs_what_the_whole_costs(graph):
    """Groups outside the part count with all their units."""
    part = part_of(graph, None, "uncoupled")
    widths = np.array([[1] * len(part.groups), [g.units for g in part.groups]])
    inside = {g.name for g in part.groups}

    assert len(part.groups) == len(graph.groups) - 1
    assert part.costs.at(widths[1]).tolist() == list(dataclasses.astuple(graph.cost()))
    ones = {g.name: [0] for g in graph.groups if g.name in inside}
    assert part.costs.at(widths)[0].tolist() == list(dataclasses.astuple(graph.cost(plan_of(graph, ones))))


class Functional(nn.Module):
    """Units that pass through functions alone, between two that a module reads."""

    def __init__(self, *, seen):
        super().__init__()
        torch.manual_seed(0)
        self.seen = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 5)) if seen else nn.Identity()
        self.into, self.out = nn.Parameter(torch.randn(12, 5)), nn.Parameter(torch.randn(4, 12))

    def forward(self, x):
        return torch.relu(self.seen(x) @ self.into.T) @ self.out.T


@pytest.mark.parametrize("kind", [CCP, FOAD, BackwardElimination])
def test_units_that_no_module_shows_stay_whole(kind):
    """Where others can be observed; where none can, the reason is told."""
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    data = [(x, torch.arange(16) % 4)]
    net = Functional(seen=True)
    graph = sct.trace(net, x)
    keep = kind().select(graph, net, sct.Budget(macs=0.8), data=data, loss=None, seed=0)
    assert len(keep["seen.0"]) < 8
    assert [g.name for g in graph.groups if not g.name.startswith("seen")] == ["into"]
    assert "into" not in keep

    net = Functional(seen=False)
    with pytest.raises(EvidenceError, match="all 1 groups pass through functions"):
        kind().select(sct.trace(net, x), net, sct.Budget(macs=0.8), data=data, loss=None, seed=0)


class Shared(nn.Module):
    """Eight channels are read on, the last four of the same layer are an output and stay."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        y = self.a(x)
        return self.b(y[:, :-4]), y[:, -4:]


def test_epruner_looks_at_the_filters_that_may_go_alone():
    """A layer that writes more than the group's units: the others are no candidates."""
    torch.manual_seed(0)
    net, x = Shared(), torch.randn(1, 3, 12, 12)
    chosen = EPruner(beta=0.5).select(sct.trace(net, x), net, None, data=None, loss=None, seed=0)["a"]
    alone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    alone[0].weight.data = net.a.weight.data[:8].clone()
    expected = EPruner(beta=0.5).select(sct.trace(alone, x), alone, None, data=None, loss=None, seed=0)["0"]

    assert expected.tolist() == chosen.tolist()


@every_method
def test_a_network_without_groups_cannot_meet_a_budget(kind):
    """It is told what is reachable."""
    net, x = nn.Conv2d(1, 4, 3), torch.zeros(2, 1, 8, 8)
    with pytest.raises(BudgetError, match="smallest network"):
        kind().select(
            sct.trace(net, x), net, sct.Budget(macs=0.5), data=[(x, torch.zeros(2, 6, 6).long())], loss=None, seed=0
        )
