"""Running statistics are averages over the data, and nothing else moves."""

import pytest
import torch
from tests.laws.networks import Coupled, made
from torch import nn

import secateurs as sct
from secateurs.errors import EvidenceError, InputError


def batches(count=4):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 3, 4, 4, generator=generator), torch.zeros(5)) for _ in range(count)]


def test_statistics_are_the_mean_over_batches():
    """Mean and unbiased variance of the norm's inputs, averaged over batches; the model's mode and momenta stay."""
    model = made(Coupled).eval()
    model.norm.train()
    data = batches()
    with torch.no_grad():
        seen = [model.stem(x) for x, _ in data]
    assert sct.recalibrate(model, data) is model

    flat = [x.transpose(0, 1).flatten(1) for x in seen]
    torch.testing.assert_close(model.norm.running_mean, torch.stack([x.mean(1) for x in flat]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([x.var(1) for x in flat]).mean(0))
    assert model.norm.momentum == 0.1
    assert model.norm.training
    assert not model.training


def test_only_the_statistics_change():
    """Weights, gradients and random state stay; dropout is off, whatever the mode."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    data = [torch.randn(6, 3) for _ in range(3)]
    weights, random = {n: p.clone() for n, p in model.named_parameters()}, torch.get_rng_state()
    sct.recalibrate(model, iter(data), batches=2)
    with torch.no_grad():
        expected = torch.stack([model[1](x).mean(0) for x in data[:2]]).mean(0)

    torch.testing.assert_close(model[2].running_mean, expected)
    assert all(torch.equal(p, weights[n]) and p.grad is None for n, p in model.named_parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert model.training


@pytest.mark.parametrize(
    ("data", "error"),
    [([], InputError), ([torch.ones(5, 3, 4, 4), "images"], EvidenceError), ([torch.ones(5, 2, 4, 4)], EvidenceError)],
    ids=["no batch", "text", "wrong shape"],
)
def test_a_failing_batch_leaves_the_statistics(data, error):
    """All the data or none of it."""
    model = made(Coupled)
    before = {name: b.clone() for name, b in model.named_buffers()}
    with pytest.raises(error):
        sct.recalibrate(model, data)

    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert model.training
    assert model.norm.momentum == 0.1


@pytest.mark.parametrize("batches", [0, -1])
def test_no_batches_are_refused(batches):
    """Statistics of nothing are none, however the nothing is asked for."""
    with pytest.raises(InputError, match="estimates nothing"):
        sct.recalibrate(made(Coupled), [torch.ones(5, 3, 4, 4)], batches=batches)


def test_a_model_without_norms_is_left_alone():
    model = nn.Linear(3, 3)

    assert sct.recalibrate(model, []) is model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_no_numbers_leave_the_statistics_as_they_were(value):
    """The norm is named, and nothing of it changed."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="statistics of '1'"):
        sct.recalibrate(model, [torch.ones(4, 2), torch.full((4, 2), value)])

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
