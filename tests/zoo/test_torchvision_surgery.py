"""Real architectures: removal is silence, training and storage go on, growth is unseen."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import secateurs as sct
from secateurs.running.compare import relative_error

NETWORKS = [
    "resnet18",
    pytest.param("mobilenet_v3_small", marks=pytest.mark.zoo),
    pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.zoo),
    pytest.param("resnext50_32x4d", marks=pytest.mark.zoo),
    pytest.param("efficientnet_b0", marks=pytest.mark.zoo),
    pytest.param("densenet121", marks=pytest.mark.zoo),
    pytest.param("vit_b_16", marks=pytest.mark.zoo),
    pytest.param("googlenet", marks=pytest.mark.zoo),
]
EVERY = pytest.mark.parametrize("name", NETWORKS)


def network(name):
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval(), torch.randn(1, 3, 224, 224) if name.startswith("vit") else torch.randn(1, 3, 64, 64)


def half(graph):
    rng = np.random.default_rng(0)
    return sct.Plan.from_keep(graph, {g.name: rng.permutation(g.units)[: (g.units + 1) // 2] for g in graph.groups})


@EVERY
def test_pruned_trained_and_stored(name, tmp_path):
    """Verified against silence, trained on with its optimizer, saved, and loaded onto the class: the same bits."""
    model, x = network(name)
    plan = half(sct.trace(model, x))
    sct.verify(plan, model, per_group=False).raise_if_failed()
    optimizer = torch.optim.AdamW(model.parameters())
    model(x).square().sum().backward()
    optimizer.step()
    sct.apply(plan, model, optimizer)
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
    loaded = sct.load(network(name)[0], sct.save(model, plan, tmp_path / name))

    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


@EVERY
def test_grown_unseen(name):
    """Every exact group at once is given two units, but those whose counts are tied: the outputs stay."""
    model, x = network(name)
    model, x = model.double(), x.double()
    graph = sct.trace(model, x)
    tied = {name for tie in graph.ties for name in tie.groups}
    wanted = {g.name: 2 for g in graph.groups if g.exact and g.units > 1 and g.name not in tied}
    grown = sct.grow(graph, copy.deepcopy(model), units=wanted)

    with torch.no_grad():
        assert relative_error(grown(x), model(x)) < 1e-9
    assert sum(g.units for g in graph.groups) + 2 * len(wanted) == sum(g.units for g in sct.trace(grown, x).groups)
