"""RDT and GraSP against plain loops over weights, and the numbers of the code of OrthoReg, transcribed."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateurs.criteria import RDT, GraSP, score
from secateurs.errors import EvidenceError, InputError
from secateurs.evidence import observe
from secateurs.graph import trace


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)
    ).eval()


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(1)
    return [(torch.randn(n, 2, 6, 6), torch.randint(3, (n,))) for n in (5, 3)]


def found(criterion, net, data):
    graph = trace(net, data[0][0])
    return score(criterion, graph.groups, observe(graph, net, criterion, data=data))


def filters(net, of):
    """Filter sums of a value a parameter, with the bias, as that code has it for its VGG."""
    return {
        name: sum(of[f"{name}.{kind}"].reshape(len(net[int(name)].weight), -1).sum(1) for kind in ("weight", "bias"))
        for name in ("0", "3")
    }


def test_rdt_is_the_published_loop(net, data):
    """Of every class: its mean probability times the squared gradient of its mean log-probability."""
    total, samples = dict.fromkeys(dict(net.named_parameters()), 0.0), 0
    for x, _ in data:
        probability, log = net(x).softmax(1).mean(0), net(x).log_softmax(1).mean(0)
        for k in range(3):
            gradients = torch.autograd.grad(log[k], list(net.parameters()), retain_graph=True)
            for name, g in zip(total, gradients, strict=True):
                total[name] = total[name] + probability[k].item() * g.pow(2) * len(x)
        samples += len(x)
    relative = {name: value / value.mean() for name, value in total.items()}

    for name, values in filters(net, relative).items():
        np.testing.assert_allclose(found(RDT(), net, data)[name], values, rtol=1e-4)


def test_grasp_is_the_weights_times_the_hessian_times_the_gradient(net, data):
    """The Hessian of the mean loss over all samples, written out."""
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    names = list(dict(net.named_parameters()))
    sizes = [p.numel() for p in net.parameters()]

    def loss(flat):
        parts = flat.split(sizes)
        shaped = {n: part.view_as(p) for n, part, p in zip(names, parts, net.parameters(), strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, shaped, (x,)) / 2.0, y)

    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    (g,) = torch.autograd.grad(loss(leaf := flat.clone().requires_grad_()), leaf)
    flow = flat * (torch.autograd.functional.hessian(loss, flat) @ g)
    shaped = {n: part.view_as(p) for n, part, p in zip(names, flow.split(sizes), net.parameters(), strict=True)}

    for name, values in filters(net, shaped).items():
        np.testing.assert_allclose(found(GraSP(temperature=2.0), net, data)[name], values, rtol=1e-3, atol=1e-7)


def test_scores_do_not_depend_on_how_data_is_cut(net, data):
    """GraSP reads the data twice, also where it can be read once; batches are parts of one mean."""
    whole = [tuple(torch.cat(parts) for parts in zip(*data, strict=True))]
    once, parts = found(GraSP(), net, whole), found(GraSP(), net, data)
    graph = trace(net, data[0][0])
    spent = score(GraSP(), graph.groups, observe(graph, net, GraSP(), data=iter(data)))

    for name in once:
        np.testing.assert_allclose(once[name], parts[name], rtol=1e-3, atol=1e-12)
        assert torch.equal(parts[name], spent[name])


def test_what_has_no_classes_is_refused(data):
    """Derivatives of classes need logits; a temperature must divide."""
    with pytest.raises(EvidenceError, match="logits"):
        found(RDT(), nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), data)
    with pytest.raises(InputError, match="temperature"):
        GraSP(temperature=0.0)
