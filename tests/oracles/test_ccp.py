"""CCP: the quadratic program against brute force and SLSQP, its matrices against one gradient per sample."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.errors import BudgetError, EvidenceError, InputError
from secateurs.evidence import observe
from secateurs.methods import CCP
from secateurs.methods.ccp.auxiliary import fit, spread, with_classifiers
from secateurs.methods.ccp.quadratic import descent, objective, project, relax, remove, round_to, swap

SOLVERS = ("relax", "polish")


def problem(size, seed, *, samples=20, slope=1.0):
    """A positive semidefinite S, as from correlated gate gradients, and u."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((samples, size)) @ rng.standard_normal((size, size))
    return z.T @ z / (2 * samples), slope * z.mean(0)


def best(s, u, count):
    """The least objective over all subsets of one size."""
    members = (np.isin(np.arange(len(u)), chosen) for chosen in combinations(range(len(u)), count))
    return min(objective(s, u, chosen.astype(float)) for chosen in members)


def value(s, u, removed):
    return objective(s, u, removed.astype(float))


@settings(max_examples=40)
@given(st.integers(2, 9), st.integers(0, 9999), st.data())
def test_the_solution_is_between_the_relaxed_and_the_rounded_one(size, seed, data):
    """Exactly as many go as asked for; polishing never loses; nothing is better than brute force."""
    s, u = problem(size, seed)
    count = data.draw(st.integers(1, size - 1))
    relaxed, rounded, polished = relax(s, u, count), *(remove(s, u, count, solver=solver) for solver in SOLVERS)

    assert rounded.sum() == polished.sum() == count
    lower = objective(s, u, relaxed)
    scale = abs(lower) + np.abs(s).sum()
    assert lower - 1e-6 * scale <= best(s, u, count) <= value(s, u, polished) + 1e-9 * scale
    assert value(s, u, polished) <= value(s, u, rounded) + 1e-12 * scale


def test_polishing_finds_the_optimum_nearly_always():
    """Of 40 problems with 10 channels, nearly all are solved to the optimum; rounding alone solves half."""
    hits = dict.fromkeys(SOLVERS, 0)
    for seed in range(40):
        s, u = problem(10, seed)
        least = best(s, u, 5)
        for solver in SOLVERS:
            hits[solver] += value(s, u, remove(s, u, 5, solver=solver)) <= least + 1e-9

    assert hits["polish"] >= 36
    assert hits["relax"] < 30


@pytest.mark.parametrize("size", [3, 16, 40])
@pytest.mark.parametrize("slope", [0.0, 0.3, 3.0])
def test_the_relaxed_optimum_is_that_of_slsqp(size, slope):
    """Another algorithm, the same least value, or a worse one."""
    s, u = problem(size, size, samples=2 * size, slope=slope)
    count = size // 2
    reference = minimize(
        lambda a: objective(s, u, a),
        np.full(size, count / size),
        jac=lambda a: 2 * s @ a - u,
        bounds=[(0, 1)] * size,
        constraints=[{"type": "eq", "fun": lambda a: a.sum() - count, "jac": lambda a: np.ones(size)}],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-13},
    )
    ours = objective(s, u, relax(s, u, count))

    assert reference.success
    assert ours == pytest.approx(reference.fun, rel=1e-6, abs=1e-9)


@settings(max_examples=100)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9), st.data())
def test_projection_is_the_nearest_point(v, data):
    """In the set, and with the optimality condition: one shift for all entries strictly between 0 and 1."""
    v = np.array(v)
    count = data.draw(st.integers(0, len(v)))
    a = project(v, count)

    assert a.sum() == pytest.approx(count, abs=1e-9)
    assert a.min() >= 0
    assert a.max() <= 1
    shift = v - a
    inside = (a > 1e-9) & (a < 1 - 1e-9)
    if inside.any():
        t = shift[inside].mean()
        assert np.allclose(shift[inside], t, atol=1e-9)
        assert (v[a <= 1e-9] <= t + 1e-8).all()
        assert (v[a >= 1 - 1e-9] >= t + 1 - 1e-8).all()


def test_no_swap_is_left():
    """Local optimality: every exchange of one removed against one kept channel costs something."""
    s, u = problem(14, 0)
    out = swap(s, u, round_to(np.zeros(14), 7))

    for i in np.flatnonzero(out):
        for j in np.flatnonzero(~out):
            other = out.copy()
            other[[i, j]] = other[[j, i]]
            assert value(s, u, other) >= value(s, u, out) - 1e-9


def test_degenerate_problems():
    """All, none, flat, and zero."""
    s, u = problem(5, 0)

    assert remove(s, u, 0).sum() == 0
    assert remove(s, u, 5).sum() == remove(s, u, 7).sum() == 5
    assert remove(np.zeros((5, 5)), np.zeros(5), 2).tolist() == [False] * 3 + [True] * 2
    assert relax(np.zeros((3, 3)), np.zeros(3), 2).sum() == pytest.approx(2)


def test_twins_are_not_both_removed():
    """Either of two channels that stand in for each other may go; the diagonal alone would take both."""
    s = np.diag([1.0, 1.0, 1.5, 1.5])
    s[0, 1] = s[1, 0] = 0.95

    assert remove(s, np.zeros(4), 2)[:2].sum() == 1


def test_descent_prices_what_greedy_removal_costs():
    """The m cheapest prices add up to at least the best objective, and to the greedy one where they rise."""
    s, u = problem(10, 3, slope=0.1)
    prices = descent(s, u)
    greedy = np.zeros(10, dtype=bool)
    total = 0.0
    for _ in range(4):
        steps = {j: value(s, u, greedy | (np.arange(10) == j)) for j in np.flatnonzero(~greedy)}
        j = min(steps, key=steps.get)
        rise, total = steps[j] - total, steps[j]
        greedy[j] = True
        assert prices[j] >= rise - 1e-9
    assert np.sort(prices)[:4].sum() >= best(s, u, 4) - 1e-9
    assert np.isfinite(prices).all()


class Net(nn.Module):
    """A stream written by two layers, and an inner layer, with norms that are not the identity."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.inner = nn.Sequential(nn.Conv2d(6, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7), nn.ReLU(inplace=True))
        self.back = nn.Conv2d(7, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.back(self.inner(x))).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = Net().double()
    norm = model.inner[1]
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def graph(net):
    return sct.trace(net, torch.zeros(1, 3, 6, 6, dtype=torch.float64))


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 3, 6, 6, generator=g, dtype=torch.float64), torch.randint(4, (n,), generator=g)) for n in (5, 3)
    ]


def samples(data):
    return [(x[k : k + 1], y[k : k + 1]) for x, y in data for k in range(len(y))]


def weight_products(net, data, names):
    """z[n, i] = sum over the layers of <w_i, dL_n / dw_i>, one backward a sample."""
    rows = []
    for x, y in samples(data):
        weights = [net.get_parameter(name) for name in names]
        grads = torch.autograd.grad(F.cross_entropy(net(x), y), weights)
        rows.append(sum((w * g).flatten(1).sum(1) for w, g in zip(weights, grads, strict=True)).detach())
    return torch.stack(rows)


def gate_products(net, data, gated):
    """z[n, i] = the derivative of the sample's loss for a factor on channel i, gated by a hook."""
    rows = []
    for x, y in samples(data):
        gate = torch.ones(gated[1], dtype=torch.float64, requires_grad=True)
        hooks = [
            net.get_submodule(name).register_forward_pre_hook(
                lambda m, args, g=gate: (args[0] * g.view(-1, *[1] * (args[0].dim() - 2)),)
            )
            for name in gated[0]
        ]
        rows.append(torch.autograd.grad(F.cross_entropy(net(x), y), gate)[0])
        for hook in hooks:
            hook.remove()
    return torch.stack(rows)


def moments(method, graph, net, data):
    return observe(graph, net, method, data=data)["moments"]


@pytest.mark.parametrize(
    ("group", "tensors"), [("inner.0", ["inner.0.weight"]), ("stem", ["stem.weight", "back.weight"])]
)
def test_moments_are_those_of_per_sample_weight_gradients(group, tensors, net, graph, data):
    """u = mean z and S = Z'Z / 2N, with z from weights and gradients; coupled layers add before they are squared."""
    z = weight_products(net, data, tensors)
    found = moments(CCP(), graph, net, data)[group]

    assert found.samples == 8
    torch.testing.assert_close(found.u, z.mean(0))
    torch.testing.assert_close(found.s, z.T @ z / 16)


@pytest.mark.parametrize(("group", "gated"), [("inner.0", (["back"], 7)), ("stem", (["inner.0", "head"], 6))])
def test_a_gate_on_the_activation_is_a_factor_on_what_is_read(group, gated, net, graph, data):
    """Behind norm and activation, in front of every reader."""
    z = gate_products(net, data, gated)
    found = moments(CCP(gate="activation"), graph, net, data)[group]

    torch.testing.assert_close(found.u, z.mean(0))
    torch.testing.assert_close(found.s, z.T @ z / 16)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_kept_channels_solve_the_program(solver, net, graph, data):
    """End to end: moments, damping, program; the size is rounded, and at least one."""
    keep = CCP(keep=0.6, solver=solver, damping=0.01, scope="uncoupled").select(graph, net, None, data=data)
    z = weight_products(net, data, ["inner.0.weight"]).numpy()
    s, u = z.T @ z / 16, z.mean(0)
    s += 0.01 * np.diag(s).mean() * np.eye(7)
    removed = ~np.isin(np.arange(7), keep["inner.0"])

    assert set(keep) == {"inner.0"}
    assert removed.tolist() == remove(s, u, 3, solver=solver).tolist()
    if solver == "polish":
        assert value(s, u, removed) == pytest.approx(best(s, u, 3))


def test_every_group_keeps_the_same_share(net, graph, data):
    """The uniform form: what `Uniform` allocates, whatever the losses."""
    budget = sct.Budget(macs=0.5)
    zeros = {g.name: torch.zeros(g.units, dtype=torch.float64) for g in graph.groups}
    expected = sct.allocate.Uniform()(zeros, graph, budget)
    found = CCP(scope="coupled").select(graph, net, budget, data=data)

    assert {name: len(units) for name, units in found.items()} == {name: len(units) for name, units in expected.items()}


def test_by_loss_takes_where_it_costs_least(graph):
    """The global form: the group that hardly touches the loss pays for the budget; removal for nothing comes first."""
    quiet, loud = (problem(n, n, slope=0.0)[0] for n in (7, 6))
    budget = sct.Budget(macs=0.7)
    method = CCP(sizes="by_loss")
    by_loss = method._sized({"inner.0": (1e-6 * quiet, np.zeros(7)), "stem": (loud, np.zeros(6))}, graph, budget)
    even = CCP()._sized({"inner.0": (quiet, np.zeros(7)), "stem": (loud, np.zeros(6))}, graph, budget)
    helpful = method._sized({"inner.0": (quiet, np.zeros(7)), "stem": (loud, np.full(6, 1e6))}, graph, budget)

    assert len(by_loss["inner.0"]) < len(even["inner.0"]) == len(even["stem"])
    assert len(by_loss["stem"]) == 6
    assert len(helpful["inner.0"]) == 7


def curved(method, graph, net, data, seed=0):
    """The moments of a method with its own loss."""
    return observe(graph, net, method, data=data, loss=method._curved(None, seed))["moments"]["inner.0"]


def test_sampled_labels_leave_no_slope(net, graph, data):
    """Drawn from the prediction, gradients vanish on average; the data's labels do not matter; the seed decides."""
    many = [(x.repeat(400, 1, 1, 1), y.repeat(400)) for x, y in data]
    true, sampled = (curved(CCP(curvature=c), graph, net, many).u for c in ("empirical", "sampled"))

    assert sampled.abs().max() < 0.25 * true.abs().max()
    wrong = [(x, (y + 1) % 4) for x, y in data]
    one, other = (CCP(keep=0.5, curvature="sampled").select(graph, net, None, data=d, seed=4) for d in (data, wrong))
    assert one["inner.0"].tolist() == other["inner.0"].tolist()


def test_the_curvature_of_the_logits_is_the_gauss_newton_matrix(net, graph, data):
    """On average over probes, S is half the mean of J'J, with J the derivative of the logits for the gates."""
    jacobians = []
    for x, _ in samples(data):
        rows = []
        for logit in range(4):
            [g] = torch.autograd.grad(net(x)[0, logit], [net.inner[0].weight])
            rows.append((net.inner[0].weight * g).flatten(1).sum(1).detach())
        jacobians.append(torch.stack(rows))
    exact = sum(j.T @ j for j in jacobians) / 16
    many = [(x.repeat(600, 1, 1, 1), y.repeat(600)) for x, y in data]
    found = curved(CCP(curvature="logits"), graph, net, many)

    torch.testing.assert_close(found.s, exact, rtol=0, atol=0.06 * float(exact.abs().max()))
    assert CCP(curvature="logits")._problem(found)[1].tolist() == [0.0] * 7
    alone = CCP(keep=0.5, curvature="logits").select(graph, net, None, data=[x for x, _ in data])
    assert len(alone["inner.0"]) == 4


def test_auxiliary_classifiers_fit_their_features():
    """Softmax regression to its optimum: the gradient vanishes, separable classes are separated."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (90,), generator=g)
    x = 5 + 3 * F.one_hot(y, 3) + torch.randn(90, 3, generator=g)
    weight, bias = fit(x, y)

    accuracy = (F.linear(x.double(), weight, bias).argmax(1) == y).double().mean()
    assert accuracy > 0.85
    rates = F.linear(x.double(), weight, bias).softmax(1).mean(0)
    torch.testing.assert_close(rates, F.one_hot(y, 3).double().mean(0), atol=1e-4, rtol=0)


def test_auxiliary_losses_are_added(net, graph, data):
    """The loss in the context is the plain one plus the classifiers'; afterwards no hook is left."""
    with with_classifiers(graph, net, data, count=1, loss=None) as total:
        x, y = data[0]
        with torch.no_grad():
            outputs = net(x)
            together, plain = total(outputs, y), F.cross_entropy(outputs, y)

    assert len(spread(graph, 1)) == 1
    assert together > plain
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


def test_auxiliary_classifiers_change_the_moments(net, graph, data):
    """CCP-AC looks at other gradients, and only needs what CCP needs."""
    plain, ac = (CCP(keep=0.5, auxiliary=n, scope="coupled").select(graph, net, None, data=iter(data)) for n in (0, 2))

    assert set(plain) == set(ac)
    with pytest.raises(InputError, match="uses no loss"):
        CCP(auxiliary=1, curvature="logits")
    with pytest.raises(InputError, match="auxiliary=9"):
        CCP(keep=0.5, auxiliary=9).select(graph, net, None, data=data)
    with pytest.raises(EvidenceError, match="no class indices"):
        CCP(keep=0.5, auxiliary=1).select(graph, net, None, data=[(data[0][0], torch.zeros(5, 4))])


def test_ccp_is_told_how_many_stay(net, graph, data):
    """A budget or a share, not both, not neither."""
    with pytest.raises(BudgetError, match="no budget and no keep"):
        CCP().select(graph, net, None, data=data)
    with pytest.raises(BudgetError, match="both a budget and keep"):
        CCP(keep=0.5).select(graph, net, sct.Budget(macs=0.5), data=data)


@pytest.mark.parametrize("wrong", [dict(damping=-1.0), dict(damping=float("nan")), dict(keep=0.0), dict(auxiliary=-1)])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="CCP"):
        CCP(**wrong)
