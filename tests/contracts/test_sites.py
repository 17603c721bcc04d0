"""Sites: a module that owns a filter and computes it is where its units come out, whatever modules are inside of it."""

import pytest
import torch
from tests.zoo.micro import MICRO
from torch import nn

import secateurs as sct
from secateurs import registry
from secateurs.errors import RecipeError

OWN = next(micro for micro in MICRO if micro.name == "subclass_that_computes_itself")


def test_a_subclass_with_a_module_inside_has_sites():
    """Its output is what a filter of its own writes; its input is what one reads."""
    graph = OWN.subject().graph
    found = {(site.module, site.port, site.writes, site.reads) for g in graph.groups for site in graph.sites(g.name)}

    assert ("one", "input", False, True) in found
    assert ("one", "output", True, False) in found


def test_a_block_with_a_parameter_is_no_filter():
    """What comes out of a filter inside of it is that one's."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.Parameter(torch.randn(6, 6, 1, 1))
            self.conv = nn.Conv2d(6, 8, 1)

        def forward(self, x):
            return self.conv(torch.conv2d(x, self.own).relu())

    graph = sct.trace(nn.Sequential(nn.Conv2d(3, 6, 1), Block(), nn.Conv2d(8, 2, 1)), torch.zeros(1, 3, 4, 4))
    writers = {g.name: [s.module for s in graph.sites(g.name) if s.writes] for g in graph.groups}
    readers = {g.name: [s.module for s in graph.sites(g.name) if s.reads] for g in graph.groups}

    assert writers == {"0": ["0"], "1": [], "1.conv": ["1.conv"]}
    assert readers == {"0": ["1"], "1": ["1.conv"], "1.conv": ["2"]}


@pytest.mark.parametrize("name", sorted(registry.names()))
def test_every_method_prunes_layers_that_compute_themselves(name):
    """Whatever evidence it needs; methods that train are for sessions, and norms' scales need norms."""
    if name in ("batch-norm-scale", "bn-scale"):
        pytest.skip("it reads the scales of norms, and there are none")
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.zeros(4, dtype=torch.long)
    net = nn.Sequential(OWN.make(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    try:
        result = sct.prune(net, x[:1], method=name, budget=sct.Budget(macs=0.6, multiple_of=1), data=[(x, labels)])
    except RecipeError as told:
        assert "prunes while the model trains" in str(told)  # noqa: PT017
        return
    assert result.model[0].one.out_channels < 12 or result.model[0].conv1.out_channels < 16
