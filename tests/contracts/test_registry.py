"""A method has one name, whoever wrote it; a package from outside is found, and one that is broken harms no other."""

import importlib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.laws.loops import EPOCHS, PER_EPOCH, X, pupil
from tests.laws.networks import Tied, images, made
from torch import nn

import secateurs as sct
from secateurs import registry
from secateurs.app.cli import main
from secateurs.app.cli.arguments import chosen_method, compose
from secateurs.app.cli.recipe import Recipe
from secateurs.criteria import Magnitude
from secateurs.errors import EvidenceError, InputError, RecipeError
from secateurs.graph.rules import Composition
from secateurs.testing import check_criterion, check_method, check_rule

PLUGIN = Path(__file__).parents[1] / "plugin"
HALF = sct.Budget(macs=0.5)


def installed(folder, name, points):
    """What an installer leaves of a package: its metadata, with entry points, in a folder on the path."""
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in found.items()) for group, found in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield tmp_path
    importlib.invalidate_caches()


@pytest.fixture
def plugin(site, monkeypatch):
    """The example package, as pip would install it."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    installed(site, project["name"], project["entry-points"])
    monkeypatch.syspath_prepend(PLUGIN / "src")
    yield site
    for name in [n for n in sys.modules if n.startswith("secateurs_example")]:
        del sys.modules[name]


def test_a_package_from_outside_is_found_everywhere(plugin, capsys):
    """By its name in `names`, `prune`, `plan`, `Session` and the help, and nothing of it is loaded before."""
    assert {"hrank", "nuclear-norm", "group-lasso"} <= set(sct.names())
    assert not any(name.startswith("secateurs_example") for name in sys.modules)

    x = images()
    data = [(x, torch.zeros(len(x), dtype=torch.long))]
    assert sct.prune(made(Tied), x, method="nuclear-norm", budget=HALF, data=data).cost_after.macs > 0
    net = made(Tied)
    assert sct.plan(sct.trace(net, x), net, criterion="hrank", budget=HALF, data=data).keep
    session = sct.Session(pupil(), X, method="group-lasso", budget=HALF, steps_per_epoch=PER_EPOCH, epochs=EPOCHS)
    assert type(session.method).__name__ == "GroupLasso"
    assert main(["prune", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name}\n" in told for name in ("hrank", "nuclear-norm", "group-lasso"))
    assert "The average rank of a unit's feature maps over a few images." in told


def test_what_the_package_has_keeps_the_contracts(plugin):
    """A value of somebody else's passes the public checks."""
    check_criterion(registry.make("hrank"))
    check_criterion(registry.make("nuclear-norm"))
    check_method(registry.make("group-lasso"))


def test_hrank_is_the_rank_of_the_maps(plugin):
    """[samples, units, height, width] reaches the statistic; the oracle takes the maps of the layer itself."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, (3, 1)), nn.ReLU(), nn.Conv2d(5, 2, 1)).double()
    x = torch.randn(3, 2, 6, 9, dtype=torch.float64)
    x[:, :, :, 3:] = x[:, :, :, :1]  # few different columns
    with torch.no_grad():
        net[0].weight[0] = 0
        net[0].bias[0] = 1  # a constant map: rank one
    graph = sct.trace(net, x)
    hrank = registry.make("hrank")
    found = hrank(graph.groups[0], sct.evidence.observe(graph, net, hrank, data=[x[:2], x[2:]]))

    assert found.tolist() == torch.linalg.matrix_rank(net[0](x)).double().mean(0).tolist()
    assert found[0] == 1 < found[1]


def test_missing_evidence_is_told_under_the_criterions_own_name(plugin):
    hrank = registry.make("hrank")
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Conv2d(5, 2, 1))
    graph = sct.trace(net, torch.zeros(1, 2, 6, 6))
    with pytest.raises(EvidenceError, match=r"'rank' was not gathered; there is 'weights'"):
        hrank(graph.groups[0], sct.evidence.Evidence({"weights": None}))
    with pytest.raises(EvidenceError, match=r"HRank\(\) needs .* as 'rank', and no data was given"):
        sct.plan(graph, net, criterion=hrank, budget=HALF)


def test_a_broken_package_is_named_and_harms_no_other(plugin, capsys):
    """Another package cannot be imported, and one gives what is no method."""
    installed(plugin, "rotten-apples", {"secateurs.methods": {"rotten": "no_such_module:Rotten"}})
    installed(plugin, "stone-fruit", {"secateurs.criteria": {"stone": "pathlib:Path"}})

    registry._installed.cache_clear()
    with pytest.raises(RecipeError, match=r"'rotten' of the package rotten-apples cannot be loaded \(ModuleNotFound"):
        sct.prune(made(Tied), images(), method="rotten", budget=HALF)
    with pytest.raises(RecipeError, match=r"'stone' of the package stone-fruit .* neither a criterion nor a method"):
        registry.make("stone")
    assert registry.make("nuclear-norm") == registry.make("nuclear-norm")
    assert main(["prune", "--help"]) == 0
    told = capsys.readouterr().out
    assert "cannot be used:" in told
    assert "rotten-apples" in told
    assert "hrank" in told


def test_a_name_means_one_thing(site):
    """Of the library, of the program, of packages."""
    with pytest.raises(InputError, match=r"'l2' is taken by secateurs"):
        sct.register(Magnitude(), name="l2")
    with pytest.raises(InputError, match=r"'fpgm' is taken"):
        sct.register(Magnitude(), name="my-own", aliases=("fpgm",))
    sct.register(Magnitude(p=2), name="my-own")
    with pytest.raises(InputError, match=r"'my-own' is taken by Magnitude\(p=2"):
        sct.register(Magnitude(), name="my-own")
    with pytest.raises(InputError, match="lower-case"):
        sct.register(Magnitude(), name="My Own")

    installed(site, "first", {"secateurs.criteria": {"twice": "a:B"}})
    installed(site, "second", {"secateurs.criteria": {"twice": "c:D"}})
    installed(site, "greedy", {"secateurs.criteria": {"taylor": "a:B"}})
    registry._installed.cache_clear()
    with (
        pytest.warns(UserWarning, match=r"package greedy calls something 'taylor'.* own is used"),
        pytest.raises(RecipeError, match=r"'twice' is a name of the package \w+ and the package \w+"),
    ):
        registry.make("twice")
    with pytest.warns(UserWarning, match="greedy"):
        assert registry.make("taylor") == sct.criteria.Taylor()
    with pytest.raises(InputError, match="taken by the package"):
        sct.register(Magnitude(), name="twice")


def test_a_registered_criterion_gets_the_runs_seed(site):
    """By its field `seed`, as Random does; a value keeps its own."""
    seen = []

    @sct.register
    @dataclass(frozen=True)
    class MyNoise:
        seed: int = 0
        needs: ClassVar = {}

        def __call__(self, group, evidence):
            seen.append(self.seed)
            return torch.arange(group.units, dtype=torch.float64)

    sct.prune(made(Tied), images(), method="my-noise", budget=HALF, seed=7)
    assert set(seen) == {7}
    seen.clear()
    sct.prune(made(Tied), images(), method=MyNoise(3), budget=HALF, seed=7)
    assert set(seen) == {3}
    sct.register(MyNoise)  # the same cell of a notebook, run twice
    assert "my-noise" in sct.names("criterion")


FILE = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from beside import SCALE

@dataclass(frozen=True)
class Backwards:
    '''The last units first.'''
    times: float = SCALE
    needs: ClassVar = {}

    def __call__(self, group, evidence):
        return -self.times * torch.arange(group.units, dtype=torch.float64)
"""


def test_a_method_in_a_file_is_named_by_its_path(tmp_path, capsys, monkeypatch):
    """With its options and help; what is beside it can be imported; a wrong name is refused with the near ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("SCALE = 2.0")
    recipe = compose(Recipe(), {"method": "mine.py:Backwards", "macs": 0.5}, {"times": 3})

    assert recipe.options == {"times": 3.0}
    result = sct.prune(made(Tied), images(), method=chosen_method(recipe), budget=HALF)
    assert all(list(units) == list(range(len(units))) for units in result.plan.keep.values())
    assert main(["prune", "--method", "mine.py:Backwards", "--help"]) == 0
    assert "The last units first." in capsys.readouterr().out
    with pytest.raises(RecipeError, match=r"no 'Backward'.*did you mean 'Backwards'"):
        compose(Recipe(), {"method": "mine.py:Backward"})
    with pytest.raises(InputError, match="is not there"):
        compose(Recipe(), {"method": "yours.py:Backward"})
    with pytest.raises(RecipeError, match=r"write mine.py:CLASS"):
        compose(Recipe(), {"method": "mine.py"})
    with pytest.raises(RecipeError, match="no method or criterion is called"):
        sct.prune(made(Tied), images(), method="mine.py:Backwards", budget=HALF)  # from Python, pass the value


@pytest.mark.parametrize("name", sorted(registry.names()))
def test_every_name_makes_a_value(name):
    """Each gives a method or criterion with its default settings, whose documentation has a first sentence."""
    value = registry.make(name)

    assert registry.kind_of(value) is not None
    assert registry.kebab(type(value).__name__) == name or name in {*registry.ALIASES, "l2", "filter-norm"}
    assert registry.summary(value)


@pytest.mark.parametrize("name", registry.names("criterion"))
def test_every_criterion_keeps_the_public_contract(name):
    check_criterion(registry.make(name))


@pytest.mark.parametrize("name", registry.names("one-shot"))
def test_every_one_shot_method_keeps_the_public_contract(name):
    check_method(registry.make(name))


TRAINING = sorted({entry.name for entry in registry.entries().values()} & set(registry.names("training")))


@pytest.mark.parametrize(
    "name",
    [name if name == "greg1" else pytest.param(name, marks=pytest.mark.slow) for name in TRAINING],
)
def test_every_training_method_keeps_the_public_contract(name):
    """Meets its budget in a session, and a session restored half way ends with the same bits."""
    check_method(registry.make(name))


# ---- the checks can fail ----


def scores(function, **more):
    """A criterion of the weights from a function."""
    members = {"needs": {"weights": sct.evidence.Weights}, "__call__": function, "__repr__": lambda self: "Bad()"}
    return type("Bad", (), {**members, **more})()


def by_position(self, group, evidence):
    return torch.arange(group.units, dtype=torch.float64)


def by_chance(self, group, evidence):
    return torch.rand(group.units, dtype=torch.float64)


def not_finite(self, group, evidence):
    return torch.full((group.units,), torch.nan, dtype=torch.float64)


def writes(self, group, evidence):
    evidence["weights"].tensors[group.slices[0].tensor].add_(1)
    return torch.ones(group.units, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (by_position, "not close"),
        (by_chance, "drew from the global"),
        (not_finite, "not finite"),
        (writes, "changed the model"),
    ],
)
def test_a_criterion_that_breaks_the_contract_is_told(function, match):
    with pytest.raises(AssertionError, match=match):
        check_criterion(scores(function))


def test_a_method_that_breaks_the_contract_is_told():
    class Greedy:
        reference = ""
        needs: ClassVar = {}

        def select(self, graph, model, budget, *, data, loss, seed):
            return {g.name: range(g.units) for g in graph.groups}

    with pytest.raises(AssertionError, match="over its budget"):
        check_method(Greedy())
    with pytest.raises(AssertionError, match="neither select"):
        check_method(3)


# ---- rules ----


@torch.library.custom_op("secateurs_tests::conv_relu", mutates_args=())
def conv_relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A fused layer."""
    return torch.nn.functional.conv2d(x, weight, bias).relu()


@conv_relu.register_fake
def _(x, weight, bias):
    return x.new_empty(
        x.shape[0], weight.shape[0], *(n - k + 1 for n, k in zip(x.shape[2:], weight.shape[2:], strict=True))
    )


FUSED = Composition(lambda x, w, b: torch.nn.functional.conv2d(x, w, b).relu())
ARGS = (torch.randn(2, 6, 5, 5), nn.Parameter(torch.randn(4, 6, 3, 3)), nn.Parameter(torch.randn(4)))


class Fused(nn.Module):
    """A fused layer between two plain ones."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(conv_relu(self.first(x), self.second.weight, self.second.bias))


def test_a_fused_operator_costs_and_prunes_as_its_parts():
    """As if the model had been written without it: groups, costs, and the pruned output."""
    torch.manual_seed(0)
    net, x = Fused().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    plain = nn.Sequential(net.first, net.second, nn.ReLU(), net.last)
    with_rule, without = sct.trace(net, x, rules={conv_relu: FUSED}), sct.trace(net, x)

    assert [(g.name, g.units) for g in with_rule.groups] == [("first", 6), ("second", 4)]
    assert with_rule.cost() == sct.trace(plain, x).cost()
    assert not without.groups
    assert sct.verify(sct.Plan.from_keep(with_rule, {"first": [0, 2], "second": [1]}), net, x).passed


def misplaced(p, op):
    """A wrong rule: the channels of the result are said to be those of the input, in another order."""
    axes = list(p.get(op.args[0]).axes)
    axes[1] = p.fresh(axes[1])[::-1]
    p.set(op.out, tuple(axes))


def silent(p, op):
    """A wrong rule: a result that is not 0 where its unit is silent is said to be."""
    p.set(op.out, p.get(op.args[0]).axes, zero=True)


def test_rules_are_checked_by_removal():
    """A right rule passes; one that moves units, one that forgets an offset, and one that protects all are told."""
    check_rule(conv_relu, FUSED, ARGS)
    with pytest.raises(AssertionError, match=r"no unit can be removed|is wrong"):
        check_rule(torch.ops.aten.relu.default, misplaced, (torch.randn(2, 6, 5, 5),))
    with pytest.raises(AssertionError, match="is wrong"):
        check_rule(torch.ops.aten.cos.default, silent, (torch.randn(2, 6, 5, 5),))
    with pytest.raises(AssertionError, match="no unit can be removed"):
        check_rule(torch.ops.aten.relu.default, lambda p, op: p.guard_all(op.args[0], "no"), (torch.randn(2, 6, 5, 5),))
    with pytest.raises(InputError, match="is no operator"):
        sct.trace(Fused(), torch.zeros(1, 3, 6, 6), rules={"conv_relu": FUSED})
