"""Where samples lie: taps inside sequence-first transformers, windows and folded tokens, against per-sample gates."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.errors import InputError
from secateurs.methods.group_fisher import GroupFisher
from secateurs.running.samples import Layout, find_layouts

TOKENS, WIDTH, HIDDEN = 5, 8, 12


class Block(nn.Module):
    """Attention and an MLP of sequence-first tokens [tokens, batch, channels]."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x, gate=None):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        h = F.gelu(self.up(x))
        return x + self.down(h if gate is None else h * gate)


class Inside(nn.Module):
    """Batch-first outside, sequence-first inside, as torch's transformers are by default."""

    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), nn.Linear(WIDTH, 3)

    def forward(self, x, gate=None):
        return self.head(self.block(x.transpose(0, 1), gate).mean(0))


class Folded(nn.Module):
    """Tokens folded into the batch: with `inner`, samples vary fastest."""

    def __init__(self, *, inner):
        super().__init__()
        self.inner = inner
        self.up, self.down, self.head = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x, gate=None):
        n = len(x)
        if gate is not None:
            gate = gate.repeat(TOKENS, 1) if self.inner else gate.repeat_interleave(TOKENS, 0)
        x = (x.transpose(0, 1) if self.inner else x).flatten(0, 1)
        h = F.gelu(self.up(x))
        y = self.down(h if gate is None else h * gate)
        y = y.view(TOKENS, n, WIDTH).mean(0) if self.inner else y.view(n, TOKENS, WIDTH).mean(1)
        return self.head(y)


def lessons(n):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, TOKENS, WIDTH, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def sums(model, path, n):
    """The session's sums for the group of `path` after one step on n samples."""
    session = sct.Session(
        model,
        lessons(1)[0],
        method=GroupFisher(every=100, until=1.0),
        budget=sct.Budget(macs=0.9),
        steps_per_epoch=200,
        epochs=1,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    session.attach(optimizer)
    x, y = lessons(n)
    F.cross_entropy(model.train()(x), y).backward()
    optimizer.step()
    taps = session._driver._taps
    found = taps.total[taps.ledger.span(path)].clone()
    session.detach()
    assert not taps.blind
    return found


@pytest.mark.parametrize("n", [3, TOKENS, 2 * TOKENS])
def test_sequence_first_taps_are_per_sample_gates(n):
    """Also with as many samples as tokens, where a guess by size would mix the two up."""
    torch.manual_seed(0)
    model, (x, y) = Inside(), lessons(n)
    gate = torch.ones(n, HIDDEN, requires_grad=True)
    z = torch.autograd.grad(F.cross_entropy(model(x, gate), y, reduction="sum"), gate)[0]

    torch.testing.assert_close(sums(model, "block.up", n), z.square().sum(0), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("n", [3, TOKENS])
def test_folded_tokens_are_unfolded_in_their_order(inner, n):
    torch.manual_seed(0)
    model, (x, y) = Folded(inner=inner), lessons(n)
    gate = torch.ones(n, HIDDEN, requires_grad=True)
    z = torch.autograd.grad(F.cross_entropy(model(x, gate), y, reduction="sum"), gate)[0]

    torch.testing.assert_close(sums(model, "up", n), z.square().sum(0), rtol=1e-4, atol=1e-8)


def test_layouts_say_dimension_rows_and_order():
    x = lessons(2)[0]

    assert find_layouts(Inside(), x, ["block.down", "head"]) == {"block.down": Layout(1), "head": Layout()}
    assert find_layouts(Folded(inner=False), x, ["down"]) == {"down": Layout(each=(TOKENS,))}
    assert find_layouts(Folded(inner=True), x, ["down"]) == {"down": Layout(each=(TOKENS,), inner=True)}


def test_norms_on_batch_statistics_are_no_sign_of_sequences():
    """A BatchNorm without running statistics lets samples act on one another, and its dimension 0 is still theirs."""
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU(), nn.Linear(6, 3))

    assert find_layouts(net, torch.randn(2, 4), ["0", "3"]) == {"0": Layout(), "3": Layout()}


def test_sequence_first_inputs_are_refused():
    """[tokens, batch, channels] at the model's own door: nothing says which dimension counts samples."""
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block(), nn.Linear(WIDTH, 3))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(InputError, match="batch-first"):
        sct.Session(
            model,
            torch.randn(TOKENS, 2, WIDTH),
            method=GroupFisher(),
            budget=sct.Budget(macs=0.9),
            steps_per_epoch=900,
            epochs=9,
        )

    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_inputs_that_cannot_be_stacked_are_refused():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.down(F.relu(self.up(x.view(1, 4))))

    with pytest.raises(InputError, match="2 samples stacked"):
        find_layouts(One(), torch.randn(1, 4), ["down"])
