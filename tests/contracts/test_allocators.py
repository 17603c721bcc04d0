"""Allocators keep the laws of a budget: met, to within one step, monotone, exact under ties, refused by name."""

import dataclasses
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from secateurs.allocate import AsIs, Budget, ByMax, ByMean, BySum, Ranked, Uniform, levels
from secateurs.errors import BudgetError, InputError, RecipeError
from secateurs.graph import trace
from secateurs.graph.groups import Cost, Group, Slice

ALLOCATORS = [Uniform(), Ranked(), Ranked(ByMax(), per_cost=True), Ranked(BySum()), Ranked(AsIs())]
RESOURCES = ("macs", "params", "memory")


# ---- a network that is only its cost ----


class Costs:
    """Products of two widths, single widths and a constant, all with whole coefficients; counts its evaluations."""

    def __init__(self, pairs, singles, constant):
        self.pairs, self.singles, self.constant = pairs, singles, constant
        self.calls = 0

    def at(self, widths):
        self.calls += 1
        widths = np.asarray(widths)
        pairs = np.einsum("...i,rij,...j->...r", widths, self.pairs, widths)
        return (pairs + widths @ self.singles.T + self.constant).astype(np.int64)


def network(sizes, *, pairs=None, singles=None, constant=0, positions=1):
    """A chain of groups, each written by one tensor; by default every unit costs one of everything."""
    count = len(sizes)
    pairs = np.zeros((3, count, count), np.int64) if pairs is None else pairs
    singles = np.ones((3, count), np.int64) if singles is None else singles
    groups = tuple(
        Group(f"g{g}", n, (Slice(f"block{g}.conv.weight", 0, np.arange(n * positions).reshape(n, positions), "out"),))
        for g, n in enumerate(sizes)
    )
    signature = {s.tensor: (s.index.size, 3) for group in groups for s in group.slices}
    return SimpleNamespace(groups=groups, costs=Costs(pairs, singles, constant), signature=signature, ties=())


def of(graph, keep):
    """Cost of what is kept."""
    return Cost(*graph.costs.at(np.array([len(keep[group.name]) for group in graph.groups])).tolist())


def dense(graph):
    return Cost(*graph.costs.at(np.array([group.units for group in graph.groups])).tolist())


@st.composite
def problems(draw):
    """A network, scores with many ties, and the parts of a budget."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    count = len(sizes)
    pairs, singles = random.integers(0, 3, (3, count, count)), random.integers(0, 5, (3, count))
    graph = network(sizes, pairs=pairs, singles=singles, constant=random.integers(20))
    assume(min(dataclasses.astuple(dense(graph))) > 0)
    ties = draw(st.booleans())
    scores = {g.name: random.integers(0, 4, g.units) if ties else random.random(g.units) for g in graph.groups}
    scores = {name: torch.from_numpy(values.astype(np.float64)) for name, values in scores.items()}
    # Drawn together, because drawing costs more than solving.
    resources, least, share, multiple, exclude = draw(st.sampled_from(RULES))
    fraction = draw(st.floats(0.1, 1))
    fractions = {name: max(0.05, fraction - 0.1 * random.integers(3)) for name in resources}
    exclude = tuple(name for name in exclude if int(name[1:]) < count)
    rules = dict(min_keep=least, min_keep_fraction=share, multiple_of=multiple, exclude=exclude)
    return graph, scores, fractions, rules


RULES = list(
    itertools.product(
        [("macs",), ("params",), ("macs", "params"), RESOURCES], [1, 2, 3], [0.0, 0.25, 0.5], [1, 2, 3], [(), ("g1",)]
    )
)


def attempt(allocator, scores, graph, budget):
    """What is kept, or None where the budget is out of reach."""
    try:
        return allocator(scores, graph, budget)
    except BudgetError:
        return None


# ---- laws ----


allocators = st.sampled_from(ALLOCATORS)


@given(allocator=allocators, problem=problems())
def test_meets_all_constraints_and_floors(allocator, problem):
    """Cost within every target; floors, exclusions and multiples kept; units ascending."""
    graph, scores, fractions, rules = problem
    budget = Budget(**fractions, **rules)
    keep = attempt(allocator, scores, graph, budget)
    assume(keep is not None)
    cost, whole = of(graph, keep), dense(graph)

    assert all(getattr(cost, name) <= fraction * getattr(whole, name) for name, fraction in fractions.items())
    for group in graph.groups:
        kept = keep[group.name]
        assert kept.dtype == np.int64
        assert len(kept) >= min(group.units, max(rules["min_keep"], rules["min_keep_fraction"] * group.units))
        assert np.all(np.diff(kept) > 0)
        assert 0 <= kept[0] <= kept[-1] < group.units
        assert len(kept) == group.units or (group.name not in rules["exclude"])
        assert len(kept) == group.units or len(kept) % rules["multiple_of"] == 0


@given(allocator=allocators, problem=problems())
def test_is_what_removing_one_step_at_a_time_gives(allocator, problem):
    """A slow reference that walks down step by step; so putting back the last step breaks the budget."""
    graph, scores, fractions, rules = problem
    budget = Budget(**fractions, **rules)
    keep = attempt(allocator, scores, graph, budget)
    expected = slow(allocator, scores, graph, budget)

    assert (keep is None) == (expected is None)
    if keep is not None:
        assert {name: kept.tolist() for name, kept in keep.items()} == expected


@given(allocator=allocators, problem=problems(), factor=st.floats(0.3, 1))
def test_is_monotone(allocator, problem, factor):
    """A smaller budget keeps a subset, group by group."""
    graph, scores, fractions, rules = problem
    large = attempt(allocator, scores, graph, Budget(**fractions, **rules))
    small = attempt(allocator, scores, graph, Budget(**{k: v * factor for k, v in fractions.items()}, **rules))
    assume(large is not None)
    if small is not None:
        assert all(set(small[name]) <= set(large[name]) for name in large)


@given(allocator=allocators, problem=problems())
def test_is_deterministic(allocator, problem):
    """The same answer twice, in whatever order the scores are listed."""
    graph, scores, fractions, rules = problem
    budget = Budget(**fractions, **rules)
    keep = attempt(allocator, scores, graph, budget)
    again = attempt(allocator, dict(reversed(scores.items())), graph, budget)

    assert (keep is None) == (again is None)
    assert keep is None or all(np.array_equal(keep[name], again[name]) for name in keep)


@given(allocator=allocators, problem=problems())
def test_keeps_the_best_of_each_group(allocator, problem):
    """No unit that goes scores above one that stays; of equals the lower index stays."""
    graph, scores, fractions, rules = problem
    keep = attempt(allocator, scores, graph, Budget(**fractions, **rules))
    assume(keep is not None)
    for group in graph.groups:
        rank = [(scores[group.name][unit].item(), -unit) for unit in range(group.units)]
        kept = set(keep[group.name].tolist())
        gone = set(range(group.units)) - kept

        assert all(rank[low] < rank[high] for low, high in itertools.product(gone, kept))


@given(allocator=allocators, problem=problems())
def test_the_whole_network_meets_the_whole_budget(allocator, problem):
    """Nothing is removed where nothing must be, whatever the multiples and floors."""
    graph, scores, _, rules = problem
    keep = allocator(scores, graph, Budget(macs=1.0, params=10**9, **rules))

    assert all(len(keep[group.name]) == group.units for group in graph.groups)


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
class TestEveryAllocator:
    def test_is_fast_on_many_groups(self, allocator):
        """10,000 units in 200 groups: a few dozen evaluations of the cost, however many units go."""
        generator = torch.Generator().manual_seed(0)
        graph = network([50] * 200, pairs=np.ones((3, 200, 200), np.int64))
        scores = {group.name: torch.rand(50, generator=generator) for group in graph.groups}

        keep = allocator(scores, graph, Budget(macs=0.3))

        assert of(graph, keep).macs <= 0.3 * dense(graph).macs
        assert graph.costs.calls < 30

    def test_groups_are_rounded(self, allocator):
        """Multiples of eight; a group that is not a multiple may stay whole."""
        graph = network([64, 20, 7])
        generator = torch.Generator().manual_seed(0)
        scores = {group.name: torch.rand(group.units, generator=generator) for group in graph.groups}
        widths = [len(k) for k in allocator(scores, graph, Budget(macs=0.5, multiple_of=8)).values()]

        assert widths[0] % 8 == 0
        assert widths[1] in (8, 16, 20)
        assert widths[2] == 7

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_refuses_scores_that_are_not_finite(self, allocator, bad):
        """By group and unit."""
        graph = network([2, 3])
        scores = {"g0": torch.ones(2), "g1": torch.tensor([1.0, bad, bad])}

        with pytest.raises(InputError, match=r"'g1', unit 1 .*2 of 3"):
            allocator(scores, graph, Budget(macs=0.5))

    def test_refuses_scores_that_do_not_fit(self, allocator):
        """A group without scores, scores without a group, and too few scores."""
        graph = network([2, 3])
        whole = {"g0": torch.ones(2), "g1": torch.ones(3)}

        with pytest.raises(InputError, match="'g1' has no scores"):
            allocator({"g0": torch.ones(2)}, graph, Budget(macs=0.5))
        with pytest.raises(InputError, match=r"'g7'.*did you mean"):
            allocator({**whole, "g7": torch.ones(2)}, graph, Budget(macs=0.5))
        with pytest.raises(InputError, match=r"'g1' have shape \(2,\)"):
            allocator({**whole, "g1": torch.ones(2)}, graph, Budget(macs=0.5))

    def test_excluded_groups_need_no_scores(self, allocator):
        """What cannot be chosen need not be scored."""
        graph = network([4, 4])
        keep = allocator({"g0": torch.rand(4)}, graph, Budget(macs=0.7, exclude=("g1",)))

        assert len(keep["g1"]) == 4
        assert len(keep["g0"]) == 1

    def test_an_impossible_budget_names_what_binds(self, allocator):
        """The constraint, what it asks for, and what the smallest network has; not the constraint that could be met."""
        graph = network([1000, 1000], constant=np.array([500, 0, 0]))
        scores = {group.name: torch.rand(1000) for group in graph.groups}
        budget = Budget(macs=0.1, params=0.5, min_keep=10, multiple_of=8, exclude=("g0",))

        with pytest.raises(BudgetError) as error:
            allocator(scores, graph, budget)

        wanted = (
            r"macs=0\.1 asks for 250 MACs; the smallest network with min_keep=10, multiple_of=8, exclude=\('g0',\) "
            r"has 1\.52k \(60\.6 %\); params=0\.5 asks for 1k parameters; .* has 1\.02k \(50\.8 %\)"
        )
        assert re.search(wanted, str(error.value))
        assert "memory" not in str(error.value)


@pytest.mark.parametrize("allocator", [Uniform(), Ranked(), Ranked(ByMax()), Ranked(AsIs(), per_cost=True)], ids=repr)
def test_equal_scores_shrink_all_groups_evenly(allocator):
    """With nothing to tell units apart, every group keeps the same share: none is emptied before the next."""
    graph = network([8, 16, 32])
    scores = {group.name: torch.ones(group.units) for group in graph.groups}

    keep = allocator(scores, graph, Budget(macs=0.5))

    assert [len(kept) for kept in keep.values()] == [4, 8, 16]
    assert all(kept.tolist() == list(range(len(kept))) for kept in keep.values())


def slow(allocator, scores, graph, budget):
    """Remove one step at a time, the one that the documented order puts first, until the budget is met."""
    allowed = levels(graph, budget)
    whole = dense(graph)
    sizes = [group.units for group in graph.groups]
    if met(graph, sizes, budget, whole):
        return {group.name: list(range(group.units)) for group in graph.groups}
    ranks, keys = [], []
    for g, group in enumerate(graph.groups):
        values = scores[group.name].double()
        if isinstance(allocator, Ranked):
            values = allocator.normalise(values)
        ranks.append(sorted(range(group.units), key=lambda unit, v=values: (v[unit].item(), -unit)))
        keys.append(step_keys(allocator, graph, budget, g, [values[unit].item() for unit in ranks[g]], allowed))
    at = [len(counts) - 1 for counts in allowed]
    while not met(graph, [counts[level] for counts, level in zip(allowed, at, strict=True)], budget, whole):
        able = [g for g in range(len(sizes)) if at[g] > 0]
        if not able:
            return None
        share = [
            (allowed[g][at[g]] + allowed[g][at[g] - 1]) / (2 * sizes[g]) if at[g] else 0 for g in range(len(sizes))
        ]
        first = min(able, key=lambda g: (keys[g][len(allowed[g]) - 1 - at[g]], -share[g], g))
        at[first] -= 1
    return {group.name: sorted(ranks[g][group.units - allowed[g][at[g]] :]) for g, group in enumerate(graph.groups)}


def met(graph, widths, budget, whole):
    cost = Cost(*graph.costs.at(np.array(widths)).tolist())
    given = [(name, getattr(budget, name)) for name in RESOURCES if getattr(budget, name) is not None]
    return all(getattr(cost, name) <= fraction * getattr(whole, name) for name, fraction in given)


def step_keys(allocator, graph, budget, g, ascending, allowed):
    """One number a step: nothing for Uniform; the mean score of its units, over what a unit saves."""
    counts = [int(c) for c in allowed[g]]
    if isinstance(allocator, Uniform):
        return [0.0] * (len(counts) - 1)
    steps = list(itertools.pairwise(len(ascending) - c for c in reversed(counts)))
    keys = [float(np.add.reduce(ascending[a:b]) / (b - a)) for a, b in steps]
    if allocator.per_cost and steps:
        top = [int(c[-1]) for c in allowed]
        less = [*top[:g], counts[-2], *top[g + 1 :]]
        before, after = graph.costs.at(np.array(top)), graph.costs.at(np.array(less))
        given = [r for r, name in enumerate(RESOURCES) if getattr(budget, name) is not None]
        saved = sum((before[r] - after[r]) / max(before[r], 1) for r in given) / (counts[-1] - counts[-2])
        keys = [key / saved if saved > 0 else float("inf") for key in keys]
    return list(itertools.accumulate(keys, max))


@given(problems())
def test_uniform_keeps_one_fraction(problem):
    """There is a fraction that every width is the nearest whole number to, within one unit where groups tie."""
    graph, scores, fractions, _ = problem
    keep = attempt(Uniform(), scores, graph, Budget(**fractions))
    assume(keep is not None)
    free = [(len(keep[g.name]), g.units) for g in graph.groups]
    above = [(kept - 0.5) / units for kept, units in free if kept > 1]
    below = [(kept + 0.5) / units for kept, units in free if kept < units]

    assert not above or not below or max(above) <= min(below)


@given(problems())
def test_ranked_by_equal_scores_is_uniform(problem):
    """Where there is nothing to rank by, the two agree."""
    graph, scores, fractions, rules = problem
    budget = Budget(**fractions, **rules)
    ones = {name: torch.ones_like(values) for name, values in scores.items()}
    ranked, uniform = attempt(Ranked(), ones, graph, budget), attempt(Uniform(), ones, graph, budget)

    assert (ranked is None) == (uniform is None)
    assert ranked is None or all(np.array_equal(ranked[name], uniform[name]) for name in ranked)


@given(problems(), st.integers(-6, 6))
def test_normalised_ranking_does_not_see_the_scale_of_a_group(problem, power):
    """Doubling all scores of one group (exact in binary) changes no plan."""
    graph, scores, fractions, rules = problem
    budget = Budget(**fractions, **rules)
    scaled = {**scores, "g0": scores["g0"] * 2.0**power}
    # Not below the smallest normal number, where halving is not exact.
    assume(all(v == 0 or v > 1e-200 for v in scores["g0"].tolist()))
    for normalise in (ByMean(), ByMax(), BySum()):
        keep = attempt(Ranked(normalise), scores, graph, budget)
        same = attempt(Ranked(normalise), scaled, graph, budget)

        assert keep is None or all(np.array_equal(keep[name], same[name]) for name in keep)


def test_ranked_compares_across_groups():
    """The unit far below its group's mean goes before the average unit of another group."""
    graph = network([3, 3])
    scores = {"g0": torch.tensor([1.0, 100.0, 100.0]), "g1": torch.tensor([0.5, 0.5, 0.5])}

    by_mean = Ranked()(scores, graph, Budget(macs=5 / 6))
    raw = Ranked(AsIs())(scores, graph, Budget(macs=5 / 6))

    assert (by_mean["g0"].tolist(), by_mean["g1"].tolist()) == ([1, 2], [0, 1, 2])
    assert (raw["g0"].tolist(), raw["g1"].tolist()) == ([0, 1, 2], [0, 1])


def test_scores_of_either_sign_keep_their_order():
    """A group whose scores are all below zero is not turned upside down by its mean."""
    graph = network([3])
    keep = Ranked()({"g0": torch.tensor([-1.0, -3.0, -2.0])}, graph, Budget(macs=0.34))

    assert keep["g0"].tolist() == [0]
    assert ByMean()(torch.tensor([-1.0, 3.0])).tolist() == [-0.5, 1.5]


def test_per_cost_prefers_what_saves_more():
    """Of two equally important units the dearer goes first; one that saves nothing goes last."""
    graph = network([4, 4, 4], singles=np.array([[1, 5, 0]] * 3))
    scores = {name: torch.ones(4) for name in ("g0", "g1", "g2")}
    widths = [len(k) for k in Ranked(per_cost=True)(scores, graph, Budget(macs=0.4)).values()]

    assert widths == [4, 1, 4]


def test_per_cost_means_the_cost_that_is_budgeted():
    """Under a budget of parameters, what is dear is what has many parameters."""
    graph = network([4, 4], singles=np.array([[9, 1], [1, 9], [1, 1]]))
    scores = {name: torch.ones(4) for name in ("g0", "g1")}

    def widths(**budget):
        return [len(k) for k in Ranked(per_cost=True)(scores, graph, Budget(**budget)).values()]

    assert widths(macs=0.6) == [2, 4]
    assert widths(params=0.6) == [4, 2]


def test_a_normaliser_that_breaks_scores_is_refused():
    """What a user's function makes of the scores is checked like the scores."""
    graph = network([3])

    with pytest.raises(InputError, match="'g0', unit 0"):
        Ranked(lambda s: s / 0)({"g0": torch.ones(3)}, graph, Budget(macs=0.5))


# ---- budgets ----


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "asks for nothing"),
        ({"macs": 0.0}, r"macs=0\.0 leaves nothing"),
        ({"macs": -0.5}, r"macs=-0\.5 leaves nothing"),
        ({"params": 0}, "params=0 leaves nothing"),
        ({"params": 1.5}, r"params=1\.5 is a fraction above the whole"),
        ({"memory": float("nan")}, "memory=nan is not a number"),
        ({"memory": float("inf")}, "memory=inf is a fraction above"),
        ({"macs": True}, "macs=True is not a number"),
        ({"macs": "half"}, "macs='half' is not a number"),
        ({"macs": 1}, "macs=1 is ambiguous"),
        ({"macs": 0.5, "min_keep": 0}, "min_keep=0"),
        ({"macs": 0.5, "min_keep": 1.5}, r"min_keep=1\.5"),
        ({"macs": 0.5, "min_keep": True}, "min_keep=True"),
        ({"macs": 0.5, "multiple_of": 0}, "multiple_of=0"),
        ({"macs": 0.5, "min_keep_fraction": 1.5}, r"min_keep_fraction=1\.5"),
        ({"macs": 0.5, "min_keep_fraction": float("nan")}, "min_keep_fraction=nan"),
        ({"macs": 0.5, "exclude": "conv1"}, r"exclude=\('conv1',\)"),
    ],
)
def test_a_malformed_budget_is_refused_by_name_and_value(wrong, words):
    """Before any network is looked at."""
    with pytest.raises(BudgetError, match=words):
        Budget(**wrong)


@pytest.mark.parametrize(
    ("budget", "targets"),
    [
        (Budget(macs=0.5), [500, np.iinfo(np.int64).max, np.iinfo(np.int64).max]),
        (Budget(macs=1.0, params=7, memory=10**18), [1001, 7, 10**18]),
        (Budget(params=np.float32(0.25), memory=np.int64(3)), [np.iinfo(np.int64).max, 2, 3]),
    ],
)
def test_targets_are_whole_numbers(budget, targets):
    """A fraction of the dense cost rounded down, an absolute number as it is."""
    assert budget.targets(Cost(macs=1001, params=10, memory=0)).tolist() == targets


def test_floors_do_not_suffer_from_binary_fractions():
    """7 % of 100 is 7; a floor never exceeds the group."""
    assert 0.07 * 100 > 7
    assert Budget(macs=0.5, min_keep_fraction=0.07).floors(network([100])) == [7]
    assert Budget(macs=0.5, min_keep_fraction=0.071).floors(network([100])) == [8]
    assert Budget(macs=0.5, min_keep=5).floors(network([3])) == [3]


def test_exclusion_is_by_group_or_by_module():
    """A prefix is a path of modules: `block1` is not in `block10`."""
    graph = network([2] * 11)

    assert Budget(macs=0.5, exclude=("g3",)).excluded(graph.groups) == {"g3"}
    assert Budget(macs=0.5, exclude=("block1",)).excluded(graph.groups) == {"g1"}
    assert Budget(macs=0.5, exclude=("block2.conv", "block4")).excluded(graph.groups) == {"g2", "g4"}


def test_exclusion_is_of_a_layers_own_outputs():
    """What feeds an excluded layer may shrink; a protected one is left as it is."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 2, 1))
    x = torch.zeros(1, 3, 8, 8)
    groups = trace(net, x).groups

    assert [g.name for g in groups] == ["0", "2"]
    assert Budget(macs=0.5, exclude=("2",)).excluded(groups) == {"2"}
    assert Budget(macs=0.5, exclude=("1",)).excluded(groups) == {"0"}
    assert Budget(macs=0.5, exclude=("3",)).excluded(groups) == frozenset()
    assert not trace(net, x, protect=["2"]).groups
    assert [g.name for g in trace(net, x, protect=["3"]).groups] == ["0"]


def test_an_unknown_exclusion_is_refused_with_near_matches():
    """A misspelt name must not be silently ignored."""
    with pytest.raises(RecipeError, match=r"exclude='blok1'.*did you mean 'block1'"):
        Budget(macs=0.5, exclude=("blok1",)).excluded(network([2, 2]).groups)


# ---- multiples of dimensions ----


def shared(parts, size=None, positions=1):
    """Groups that share the dimension of one tensor, in blocks."""
    starts = np.cumsum([0, *parts]) * positions
    groups = tuple(
        Group(f"g{g}", n, (Slice("w", 0, start + np.arange(n * positions).reshape(n, positions), "out"),))
        for g, (n, start) in enumerate(zip(parts, starts[:-1], strict=True))
    )
    count = len(parts)
    costs = Costs(np.zeros((3, count, count), np.int64), np.ones((3, count), np.int64), 0)
    return SimpleNamespace(groups=groups, costs=costs, signature={"w": (size or int(starts[-1]), 1)}, ties=())


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (shared([16]), [[8, 16]]),
        (shared([20]), [[8, 16, 20]]),  # not a multiple, but alone: it may stay whole
        (shared([16], positions=2), [[4, 8, 12, 16]]),  # two positions a unit
        (shared([16], size=19), [[5, 13, 16]]),  # three entries are protected: 3 + 5 = 8
        (shared([16, 8]), [[8, 16], [8]]),
        (shared([10, 20]), [[8], [8, 16]]),  # together they cannot stay whole
        (shared([4, 20]), [[4], [4, 12, 20]]),  # one has no multiple, so it stays, and the other makes up for it
        (shared([4, 4, 21]), [[4], [4], [8, 16]]),
    ],
)
def test_levels_make_every_written_dimension_a_multiple(graph, expected):
    """Whatever levels the groups choose, the dimension is a multiple of eight, or nothing in it was removed."""
    found = levels(graph, Budget(macs=0.5, multiple_of=8))

    assert [counts.tolist() for counts in found] == expected
    size, each = graph.signature["w"][0], graph.groups[0].slices[0].index.shape[1]
    whole = sum(group.units for group in graph.groups)
    for widths in itertools.product(*expected):
        assert sum(widths) == whole or (size - each * (whole - sum(widths))) % 8 == 0


def test_excluded_parts_of_a_dimension_are_made_up_for():
    """An excluded group of 3 leaves 5 or 13 for its neighbour, or all of it."""
    found = levels(shared([3, 16]), Budget(macs=0.5, multiple_of=8, exclude=("g0",)))

    assert [counts.tolist() for counts in found] == [[3], [5, 13, 16]]


def test_groups_that_must_be_rounded_stay_whole_where_nothing_must_go():
    """A dimension of 30 in two groups cannot keep both whole once it is touched; it is not touched for nothing."""
    graph = shared([10, 20])
    scores = {"g0": torch.rand(10), "g1": torch.rand(20)}

    assert [len(k) for k in Uniform()(scores, graph, Budget(macs=1.0, multiple_of=8)).values()] == [10, 20]
    assert [len(k) for k in Uniform()(scores, graph, Budget(macs=0.99, multiple_of=8)).values()] == [8, 16]


# ---- real networks ----


class Split(nn.Module):
    """A stream, a concatenation, a flattened map; widths that are no multiples of eight."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 22, 3, padding=1)
        self.b = nn.Conv2d(22, 40, 3, padding=1)
        self.c = nn.Conv2d(22, 33, 1)
        self.d = nn.Conv2d(73, 22, 1)
        self.fc = nn.Linear(22 * 9, 5)

    def forward(self, x):
        x = self.a(x).relu()
        y = torch.cat([self.b(x).relu(), self.c(x).relu()], 1)
        return self.fc((x + self.d(y)).relu().flatten(1))


@pytest.mark.parametrize("allocator", [Uniform(), Ranked(), Ranked(per_cost=True)], ids=repr)
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_a_traced_network_meets_its_budget(allocator, multiple_of):
    """The cost that the graph predicts for the kept units is within budget, and tight; written widths are rounded."""
    graph = trace(Split(), torch.zeros(1, 3, 3, 3))
    generator = torch.Generator().manual_seed(0)
    scores = {group.name: torch.rand(group.units, generator=generator) for group in graph.groups}

    keep = allocator(scores, graph, Budget(macs=0.4, params=0.5, multiple_of=multiple_of))
    cost, whole = graph.cost(SimpleNamespace(keep=keep)), graph.cost()
    small = graph.shrink(keep).signature

    assert len(graph.groups) == 3
    assert cost.macs <= 0.4 * whole.macs
    assert cost.params <= 0.5 * whole.params
    tight = max(cost.macs / (0.4 * whole.macs), cost.params / (0.5 * whole.params))
    assert tight > 0.95 or multiple_of > 1
    for name, dims in graph.kept_indices(keep).items():
        if 0 in dims:
            assert small[name][0] % multiple_of == 0


# ---- shares of filters ----


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_a_share_of_the_filters_is_met_exactly(allocator):
    """So many units remain, whatever they cost; excluded ones are not counted."""
    graph = network([8, 6, 10], singles=np.array([[1, 50, 3]] * 3))
    scores = {g.name: torch.arange(g.units, dtype=torch.float64) for g in graph.groups}

    keep = allocator(scores, graph, Budget(filters=0.5))
    some = allocator(scores, graph, Budget(filters=0.5, exclude=("g1",)))

    assert sum(map(len, keep.values())) == 12
    assert (len(some["g1"]), len(some["g0"]) + len(some["g2"])) == (6, 9)


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=repr)
def test_shares_are_met_layer_by_layer(allocator):
    """A share is rounded up; a longer name wins; what has none follows the other constraints."""
    graph = network([8, 7, 10])
    scores = {g.name: torch.arange(g.units, dtype=torch.float64) for g in graph.groups}
    shares = (("block0", 0.5), ("g1", 3), ("block2", 0.9), ("block2.conv", 0.25))

    keep = allocator(scores, graph, Budget(shares=shares))
    more = allocator(scores, graph, Budget(shares=(("g1", 0.3),), params=0.5))

    assert {name: units.tolist() for name, units in keep.items()} == {
        "g0": [4, 5, 6, 7],
        "g1": [4, 5, 6],
        "g2": [7, 8, 9],
    }
    assert (len(more["g1"]), sum(map(len, more.values()))) == (3, 12)


def test_shares_that_cannot_be_are_refused():
    """A share below a floor, of an excluded group, of nothing; a name that is not there."""
    graph = network([8, 7])
    scores = {g.name: torch.zeros(g.units) for g in graph.groups}
    for budget, error in (
        (dict(shares=(("g0", 0.25),), min_keep=4), BudgetError),
        (dict(shares=(("g0", 0.25),), exclude=("g0",)), BudgetError),
        (dict(shares=(("g9", 0.25),)), RecipeError),
        (dict(filters=0.25, min_keep=4), BudgetError),
    ):
        with pytest.raises(error):
            Uniform()(scores, graph, Budget(**budget))
    for shares in ((("g0", 0.0),), ("g0", 0.5), (("g0", 1.5),)):
        with pytest.raises(BudgetError):
            Budget(shares=shares)
