"""EPruner against scikit-learn's affinity propagation, layer by layer."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import AffinityPropagation
from sklearn.random_projection import SparseRandomProjection
from torch import nn

import secateurs as sct
from secateurs.errors import InputError, RecipeError
from secateurs.methods import EPruner
from secateurs.methods.epruner.affinity import Messages, affinity_propagation, column_median
from secateurs.methods.one_shot import part_of


def points(count, features, seed, clusters=0):
    """Random points, in clusters if asked for."""
    rng = np.random.default_rng(seed)
    if not clusters:
        return rng.standard_normal((count, features))
    centres = rng.standard_normal((clusters, features))
    return centres[rng.integers(clusters, size=count)] + 0.2 * rng.standard_normal((count, features))


def similarities(x):
    return -((x[:, None] - x[None]) ** 2).sum(-1)


def reference(s, preference):
    """scikit-learn's exemplars, ascending; whether it converged; how many iterations it took."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = AffinityPropagation(preference=preference, affinity="precomputed", random_state=0).fit(s)
    settled = not any("did not converge" in str(w.message) for w in caught)
    return sorted(fitted.cluster_centers_indices_), settled, fitted.n_iter_


@settings(max_examples=150)
@given(st.integers(2, 60), st.integers(1, 30), st.integers(0, 9999), st.floats(0.3, 1.6), st.sampled_from([0, 3, 8]))
def test_exemplars_are_those_of_scikit_learn(count, features, seed, beta, clusters):
    """The same exemplars after the same number of iterations, converged or not."""
    s = similarities(points(count, features, seed, clusters))
    preference = np.median(s, axis=0) * beta
    expected, settled, iterations = reference(s, preference)

    [found] = affinity_propagation(torch.from_numpy(s)[None], torch.from_numpy(preference)[None], retry=None)

    assert found.exemplars.tolist() == expected
    assert found.converged == settled
    assert found.iterations in (0, iterations)  # 0: the answer was seen without passing a message


@pytest.mark.parametrize(("count", "beta"), [(300, 0.9), (200, 1.0), (150, 1.4)])
def test_wide_layers_agree_too(count, beta):
    """Where most pairs pass no message, and where nearly all do."""
    s = similarities(points(count, 400, 7))
    preference = np.median(s, axis=0) * beta

    [found] = affinity_propagation(torch.from_numpy(s)[None], torch.from_numpy(preference)[None], retry=None)

    assert found.exemplars.tolist() == reference(s, preference)[0]


def test_a_problem_does_not_depend_on_its_company(monkeypatch):
    """Alone, in a batch, or in a batch cut into pieces: the same exemplars and evidence, bit for bit."""
    s = torch.stack([torch.from_numpy(similarities(points(30, 5, seed, seed % 4))) for seed in range(9)])
    p = column_median(s) * torch.linspace(0.4, 1.3, 9, dtype=torch.float64)[:, None]
    together = affinity_propagation(s, p)
    monkeypatch.setattr("secateurs.methods.epruner.affinity.HELD", {"cpu": 2 * 30 * 30 * 8})
    pieces = affinity_propagation(s, p)

    assert {one.converged for one in together} == {True}
    for index, one in enumerate(together):
        [alone] = affinity_propagation(s[index : index + 1], p[index : index + 1])
        assert torch.equal(one.exemplars, alone.exemplars)
        assert torch.equal(one.evidence, alone.evidence)
        assert torch.equal(one.exemplars, pieces[index].exemplars)


def test_equivariance():
    """Points in another order have the same exemplars."""
    s = torch.from_numpy(similarities(points(50, 8, 3)))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    p = 0.7 * column_median(s)
    [one] = affinity_propagation(s[None], p[None])
    [other] = affinity_propagation(s[order][:, order][None], p[order][None])

    assert 1 < len(one.exemplars) < 50
    assert order[other.exemplars].sort().values.tolist() == one.exemplars.tolist()


def oscillating():
    """A problem that does not settle with the default messages."""
    s = similarities(points(12, 60, 56))
    return torch.from_numpy(s)[None], torch.from_numpy(np.median(s, axis=0) * 0.97)[None]


def test_what_does_not_settle_is_tried_again_with_care():
    """More damping and more iterations; without the guard the last iteration stands, as in scikit-learn."""
    s, p = oscillating()
    [loose] = affinity_propagation(s, p, retry=None)
    [careful] = affinity_propagation(s, p)

    assert not loose.converged
    assert loose.iterations == 200
    assert careful.converged
    assert len(careful.exemplars)


def test_what_never_settles_keeps_what_it_has_and_never_nothing():
    """With one iteration nobody is settled; where nobody is an exemplar either, all are."""
    s = torch.from_numpy(similarities(points(20, 4, 0)))
    short = Messages(iterations=1, patience=1)
    [some] = affinity_propagation(s[None], 0.5 * column_median(s)[None], messages=short, retry=short)
    [none] = affinity_propagation(s[None], 50 * column_median(s)[None], messages=short, retry=short)

    assert not some.converged
    assert 0 < len(some.exemplars) < 20
    assert not none.converged
    assert len(none.exemplars) == 20


@pytest.mark.parametrize(("preference", "exemplars"), [(0.0, 5), (-1.0, 5), (-9.0, 1)])
def test_equal_similarities_say_nothing(preference, exemplars):
    """All alike: everybody or somebody, as scikit-learn decides."""
    s = -4.0 * (1 - torch.eye(5, dtype=torch.float64))
    [found] = affinity_propagation(s[None], torch.full((1, 5), preference, dtype=torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = AffinityPropagation(preference=preference, affinity="precomputed", random_state=0).fit(s.numpy())

    assert len(found.exemplars) == exemplars == len(expected.cluster_centers_indices_)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_medians_are_numpys(count):
    """Down the column, diagonal included; of two middles, the mean."""
    s = similarities(points(count, 3, count))

    np.testing.assert_allclose(column_median(torch.from_numpy(s)), np.median(s, axis=0), rtol=1e-15)


@pytest.mark.parametrize("wrong", [dict(damping=0.4), dict(damping=1.0), dict(iterations=3), dict(patience=0)])
def test_messages_that_cannot_settle_are_refused(wrong):
    with pytest.raises(InputError, match="Messages"):
        Messages(**wrong)


class Net(nn.Module):
    """Two inner layers of one width, one of another, and a residual stream."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.ModuleList([nn.Conv2d(16, 24, 3, padding=1) for _ in range(2)])
        self.norm = nn.ModuleList([nn.BatchNorm2d(24) for _ in range(2)])
        self.back = nn.ModuleList([nn.Conv2d(24, 16, 3, padding=1) for _ in range(2)])
        self.late = nn.Sequential(nn.Conv2d(16, 20, 3), nn.ReLU())
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        x = self.stem(x)
        for inner, norm, back in zip(self.inner, self.norm, self.back, strict=True):
            x = x + back(norm(inner(x)).relu())
        return self.head(self.late(x).mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Net()
    for conv in (*net.inner, net.late[0]):
        conv.weight.data = torch.from_numpy(
            points(len(conv.weight), conv.weight[0].numel(), 5, 9).reshape(conv.weight.shape)
        ).float()
    return net.eval()


@pytest.fixture(scope="module")
def graph(net):
    return sct.trace(net, torch.zeros(1, 3, 8, 8))


def published(weight, beta):
    """The published recipe for one layer."""
    s = similarities(weight.detach().flatten(1).double().numpy())
    return reference(s, np.median(s, axis=0) * beta)[0]


@pytest.mark.parametrize("beta", [0.3, 0.5, 0.75])
def test_layers_keep_what_the_published_recipe_keeps(net, graph, beta):
    """Every inner layer, its own exemplars; the residual stream whole."""
    keep = EPruner(beta=beta, scope="uncoupled").select(graph, net, None)

    assert set(keep) == {"inner.0", "inner.1", "late.0"}
    for name, units in keep.items():
        assert units.tolist() == published(net.get_submodule(name).weight, beta)
    assert any(len(units) < 16 for units in keep.values())


def test_betas_are_per_layer(net, graph):
    """A pattern overrules beta, and the last match counts."""
    method = EPruner(beta=0.3, betas=(("inner.*", 0.6), ("inner.1", 0.9)))
    keep = method.select(graph, net, None)

    for name, beta in {"inner.0": 0.6, "inner.1": 0.9, "late.0": 0.3}.items():
        assert keep[name].tolist() == published(net.get_submodule(name).weight, beta)


def test_coupled_layers_add_their_distances(net, graph):
    """The stream is clustered by the filters of all its writers, side by side."""
    keep = EPruner(beta=0.9, scope="coupled").select(graph, net, None)
    writers = torch.cat([conv.weight.detach().flatten(1) for conv in (net.stem, *net.back)], dim=1)

    assert keep["stem"].tolist() == published(writers, 0.9)


def test_the_overall_preference_is_one_number_a_layer(net, graph):
    """beta times the median of all pairs but those with oneself; of a pair of filters either may be the exemplar."""
    keep = EPruner(beta=0.6, preference="overall").select(graph, net, None)
    s = similarities(net.late[0].weight.detach().flatten(1).double().numpy())
    expected = reference(s, 0.6 * np.median(s[~np.eye(len(s), dtype=bool)]))[0]

    assert len(keep["late.0"]) == len(expected) < len(s)
    assert s[:, keep["late.0"]].max(1).sum() == pytest.approx(s[:, expected].max(1).sum())


def test_a_collapsed_layer_is_topped_up(net, graph):
    """The floor adds units to the exemplars, and takes none away."""
    steep = EPruner(beta=20.0).select(graph, net, None)
    floored = EPruner(beta=20.0, min_keep=4).select(graph, net, None)

    assert all(len(units) < 4 for units in steep.values())
    assert all(len(units) == 4 and set(steep[name]) <= set(units) for name, units in floored.items())


def test_between_two_betas_only_the_difference_moves(net, graph, monkeypatch):
    """To a budget: the exemplars of the least beta that meets it all stay, and more than those of the next one go."""
    tried = {}
    cluster = EPruner._cluster

    def spy(self, layers, factor, seed):
        tried[factor] = cluster(self, layers, factor, seed)
        return tried[factor]

    monkeypatch.setattr(EPruner, "_cluster", spy)
    budget = sct.Budget(macs=0.55)
    keep = EPruner(beta=0.4).select(graph, net, budget)
    sets = {f: {name: c.exemplars.numpy() for name, c in found.items()} for f, found in tried.items()}
    costs = {f: graph.cost(sct.Plan.from_keep(graph, found)).macs for f, found in sets.items()}
    target = budget.targets(graph.cost())[0]
    meets = min(f for f, macs in costs.items() if macs <= target)

    assert all(set(units) <= set(keep[name]) for name, units in sets[meets].items())
    assert costs[meets] <= graph.cost(sct.Plan.from_keep(graph, keep)).macs <= target
    assert max(f for f, macs in costs.items() if macs > target) == pytest.approx(meets, rel=2e-3)


def test_uniform_widths_are_those_of_uniform(net, graph):
    """The same share of every group; the exemplars' order inside."""
    budget = sct.Budget(macs=0.6)
    zeros = {
        name: torch.zeros(graph.group(name).units, dtype=torch.float64) for name in ("inner.0", "inner.1", "late.0")
    }
    even = sct.allocate.Uniform()(zeros, part_of(graph, None, "uncoupled"), budget)
    keep = EPruner(uniform=True, scope="uncoupled").select(graph, net, budget)

    assert {name: len(units) for name, units in keep.items()} == {name: len(units) for name, units in even.items()}


def test_presets_name_layers_that_exist():
    """The late layers of the paper's networks, by torchvision's names."""
    models = pytest.importorskip("torchvision.models")
    counts = {"resnet18": 2, "resnet34": 2, "resnet50": 3, "resnet101": 5, "resnet152": 5}
    for name, count in counts.items():
        with torch.device("meta"):
            modules = dict(models.get_model(name, weights=None).named_modules())
        method = EPruner.preset(name)
        late = [path for path, m in modules.items() if isinstance(m, nn.Conv2d) and method.beta_of(path) > method.beta]
        assert len(late) == count, name
    assert EPruner.preset("resnet56") == EPruner(beta=0.76, scope="uncoupled")
    with pytest.raises(RecipeError, match=r"'resnet65'.*resnet56"):
        EPruner.preset("resnet65")


@pytest.mark.parametrize(
    "wrong", [dict(beta=0.0), dict(beta=float("nan")), dict(betas=(("a", -1.0),)), dict(min_keep=0)]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="EPruner"):
        EPruner(**wrong)


def pruned(net, graph, method):
    plan = sct.Plan.from_keep(graph, method.select(graph, net, sct.Budget(macs=0.6)))
    small = sct.apply(plan, copy.deepcopy(net))
    method.finish(small, net, plan, seed=3)
    return small, plan


def test_the_exemplars_and_their_statistics_are_inherited(net, graph):
    """By default nothing but removal happens."""
    small, plan = pruned(net, graph, EPruner())
    kept = list(plan.keep["inner.0"])

    assert torch.equal(small.inner[0].weight, net.inner[0].weight[kept])
    assert torch.equal(small.back[0].weight, net.back[0].weight[:, kept])
    assert torch.equal(small.norm[0].running_var, net.norm[0].running_var[kept])


def test_norms_that_lost_units_are_reset(net, graph):
    """Scale 1, shift 0, mean 0, variance 1; norms that lost none stay."""
    dense = copy.deepcopy(net)
    for norm in dense.norm:
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.fill_(7.0)
    small, _ = pruned(dense, graph, EPruner(reset_bn=True))

    assert small.norm[0].weight.unique().tolist() == small.norm[0].running_var.unique().tolist() == [1.0]
    assert small.norm[0].bias.unique().tolist() == small.norm[0].running_mean.unique().tolist() == [0.0]


def test_consumers_are_projected(net, graph):
    """The rows of a consumer are random sparse combinations of its dense columns; filters stay exemplars."""
    small, plan = pruned(net, graph, EPruner(initialisation="random_project"))
    again, _ = pruned(net, graph, EPruner(initialisation="random_project"))
    kept = list(plan.keep["inner.0"])
    dense, found = net.back[0].weight.flatten(1), small.back[0].weight.flatten(1)
    projection = torch.linalg.lstsq(dense, found).solution

    assert torch.equal(small.inner[0].weight, net.inner[0].weight[kept])
    assert not torch.equal(small.back[0].weight, net.back[0].weight[:, kept])
    assert torch.equal(small.back[0].weight, again.back[0].weight)
    torch.testing.assert_close(dense @ projection, found, atol=1e-4, rtol=1e-3)


def test_projections_have_the_scale_of_scikit_learn():
    """Entries are zero or of one size, in the same proportions."""
    from secateurs.methods.epruner.restart import _projected

    weight = torch.eye(900).view(900, 100, 3, 3)
    ours = _projected(weight, 1, 40, torch.Generator().manual_seed(0)).flatten(1).numpy()
    theirs = SparseRandomProjection(360, random_state=0).fit(np.zeros((2, 900))).components_.toarray().T

    values = np.unique(np.abs(theirs))
    np.testing.assert_allclose(np.unique(np.abs(ours)), values, rtol=1e-6)
    assert (ours != 0).mean() == pytest.approx((theirs != 0).mean(), rel=0.05)
    assert abs(ours.sum()) < 4 * values[-1] * np.sqrt((ours != 0).sum())


def test_a_fresh_start_is_drawn_from_its_seed(net, graph):
    """All weights are new, the same for the same seed, and the global generator does not notice."""
    before = torch.get_rng_state()
    method = EPruner(initialisation="random")
    small, plan = pruned(net, graph, method)
    again, _ = pruned(net, graph, method)

    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(small.inner[0].weight, again.inner[0].weight)
    assert not torch.equal(small.stem.weight, net.stem.weight)
    assert small.inner[0].weight.shape[0] == len(plan.keep["inner.0"])
