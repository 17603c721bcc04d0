"""Recovery brings a pruned network nearer to the dense one, changes nothing else, and repeats itself."""

import copy
from typing import get_args

import pytest
import torch
from tests.laws.networks import Coupled, Tied, made
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.errors import EvidenceError, InputError, PlanError
from secateurs.recover import Match, normal, settle_norms
from secateurs.recover.replay import Replay, record
from secateurs.recover.rows import patches
from secateurs.running.batches import read_batch

STEPS = (
    sct.Distil(epochs=2),
    sct.Recalibrate(),
    sct.FoldMeans(),
    sct.RepairVariance(),
    sct.Reconstruct(),
    sct.Reconstruct(settle=False),
)


def photos(count=160, channels=3, size=4, dims=2, seed=1):
    return torch.randn(count, channels, *[size] * dims, generator=torch.Generator().manual_seed(seed))


def cut(model, x, macs=0.6):
    return sct.prune(model, x[:2], method="l2", budget=sct.Budget(macs=macs))


def put_out(model, x):
    with torch.no_grad():
        out = copy.deepcopy(model).eval()(x)
    return out["logits"] if isinstance(out, dict) else out


def distance(model, dense, x):
    return (put_out(model, x) - put_out(dense, x)).square().mean().item()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before, model):
    return all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_nothing_removed_nothing_changed(step):
    """Where the plan keeps every unit, no bit of the network differs."""
    model, x = made(Coupled).eval(), photos(16)
    plan = sct.Plan.identity(sct.trace(model, x[:2]))
    before = state(model)

    assert same(before, sct.recover(model, model, [x], plan=plan, steps=step))


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_arguments_stay_and_runs_agree(step):
    """Both networks keep every value and their mode; a second run gives the same network; labels are not read."""
    model, x = made(Coupled).train(), photos()
    result = cut(model, x)
    dense, small = state(model), state(result.model)
    first = sct.recover(result.model, model, [x], plan=result.plan, steps=step)
    again = sct.recover(result.model, model, [(x, torch.full((160,), torch.nan))], plan=result.plan, steps=step)

    assert same(dense, model)
    assert same(small, result.model)
    assert model.training
    assert first.training == result.model.training
    assert same(state(first), again)
    assert not same(small, first)


class Attentive(nn.Module):
    """Patches, one encoder layer, and a head: linear layers over tokens, and attention."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 2, stride=2)
        self.encoder = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("kind", [Coupled, Tied, Attentive])
def test_a_reconstructed_network_is_nearer_to_the_dense_one(kind):
    """On images that it has not seen, through streams, gates, groups, depthwise layers and flattened maps."""
    model, x = made(kind).eval(), photos(320)
    result = cut(model, x)
    better = sct.recover(result.model, model, [x[:256]], plan=result.plan)

    assert distance(better, model, x[256:]) < 0.5 * distance(result.model, model, x[256:])


def test_no_layer_moves_away_from_its_target():
    """Every layer that is changed is nearer to the dense network's on the images than it was."""
    model, x = made(Coupled).eval(), photos()
    result, lines = cut(model, x), []
    sct.recover(result.model, model, [x], plan=result.plan, steps=sct.Reconstruct(sweeps=2), progress=lines.append)
    errors = [tuple(map(float, line.split("error ")[1].split(" -> "))) for line in lines if "error" in line]

    assert len(errors) > 5
    assert all(after <= before for before, after in errors)


KINDS = {
    "1d": (1, nn.Conv1d, dict(kernel_size=3, padding=2, stride=2)),
    "2d": (2, nn.Conv2d, dict(kernel_size=(3, 2), padding=(1, 0), dilation=(2, 1))),
    "3d": (3, nn.Conv3d, dict(kernel_size=2, padding=1)),
    "grouped": (2, nn.Conv2d, dict(kernel_size=3, groups=2, padding="same")),
    "depthwise": (2, nn.Conv2d, dict(kernel_size=3, groups=8)),
    "transposed": (2, nn.ConvTranspose2d, dict(kernel_size=3, stride=2, padding=1, output_padding=1)),
    "transposed grouped": (2, nn.ConvTranspose2d, dict(kernel_size=3, stride=2, groups=2)),
}


@pytest.mark.parametrize("name", KINDS)
def test_patches_times_weight_is_the_convolution(name):
    """What is solved for is what the operator computes, for every kind of convolution."""
    from secateurs.recover.layers import matrix

    dims, kind, settings = KINDS[name]
    layer = kind(8, 8, **settings).double()
    x = photos(3, 8, 5, dims).double()
    step = next(s for s in record(layer, read_batch(x, 0, x.device)).steps if "convolution" in str(s.func))
    out = layer(x)
    columns = patches(step, x, layer.weight.shape[2:], out.shape[2:], torch.arange(out.shape[2:].numel()))
    found = torch.einsum("rgc,goc->rgo", columns, matrix(step, layer.weight)).flatten(1) + layer.bias

    torch.testing.assert_close(found.unflatten(0, (3, -1)).transpose(1, 2).unflatten(2, out.shape[2:]), out)


def expressible(dims, kind, settings):
    """A network in which the last four channels of the first layer are sums of pairs of the first four."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    first = conv(3, 8, 1)
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            tensor[4:] = tensor[:4] + tensor[[1, 2, 3, 0]]
    return nn.Sequential(first, kind(8, 8, **settings), nn.Flatten())


@pytest.mark.parametrize("name", [n for n in KINDS if "grouped" not in n and n != "depthwise"])
def test_what_the_rest_can_express_costs_nothing(name):
    """Channels that are linear in the others are made up for without error."""
    dims, kind, settings = KINDS[name]
    torch.manual_seed(0)
    model, x = expressible(dims, kind, settings), photos(64, 3, 5, dims)
    graph = sct.trace(model, x[:2])
    plan = sct.Plan.from_keep(graph, {"0": [0, 1, 2, 3]})
    small = sct.apply(plan, copy.deepcopy(model))
    better = sct.recover(small, model, [x], plan=plan)

    assert distance(small, model, x) > 1e-3
    assert distance(better, model, x) < 1e-7


class Shortcut(nn.Module):
    """A sum whose two branches lose channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 12, 3, padding=1)
        self.outer = nn.Conv2d(12, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.side = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return F.relu(self.norm(self.outer(F.relu(self.inner(x)))) + self.side(x))


def test_a_branch_makes_up_for_the_other():
    """With the first branch cut alone, the shortcut's layer is changed too, and the sum comes nearer still."""
    torch.manual_seed(0)
    model, x = Shortcut().eval(), photos()
    plan = sct.Plan.from_keep(sct.trace(model, x[:2]), {"inner": range(5)})
    small = sct.apply(plan, copy.deepcopy(model))
    better = sct.recover(small, model, [x], plan=plan)
    half = copy.deepcopy(better)
    half.side = small.side

    assert not torch.equal(better.side.weight, small.side.weight)
    assert distance(better, model, x) < distance(half, model, x) < distance(small, model, x)


def test_settled_norms_compute_the_same_and_have_the_statistics():
    """In eval mode nothing changes; in train mode the batch of all images gives the same outputs as eval mode."""
    model, x = made(Shortcut).eval(), photos()
    settled = copy.deepcopy(model)
    settle_norms(settled, [read_batch(x[:100], 0, x.device), read_batch(x[100:], 1, x.device)])

    torch.testing.assert_close(put_out(settled, x), put_out(model, x))
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(settled).train()(x), put_out(model, x), atol=1e-3, rtol=1e-3)
        assert not torch.allclose(copy.deepcopy(model).train()(x), put_out(model, x), atol=0.1)


def test_the_mean_of_a_constant_unit_is_folded_exactly():
    """A unit that is always the same, before a layer without padding, goes into its bias."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3)), photos()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, 1.5
    plan = sct.Plan.from_keep(sct.trace(model, x[:2]), {"0": [0, 1, 3]})
    small = sct.apply(plan, copy.deepcopy(model))
    folded = sct.recover(small, model, [x], plan=plan, steps=sct.FoldMeans())

    torch.testing.assert_close(folded[2].bias, model[2].bias + 1.5 * model[2].weight[:, 2].sum((1, 2)))
    torch.testing.assert_close(put_out(folded, x), put_out(model, x))


def test_channels_vary_again_as_they_did():
    """With shrinkage=1 and no shortcut, every channel varies as it does in the dense network."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(2)), photos()
    plan = sct.Plan.from_keep(sct.trace(model, x[:2]), {"0": range(5)})
    small = sct.apply(plan, copy.deepcopy(model))
    full = sct.recover(small, model, [x], plan=plan, steps=sct.RepairVariance(shrinkage=1.0))
    wanted, found, before = (put_out(m, x).transpose(0, 1).flatten(1).var(1) for m in (model, full, small))

    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(before, wanted, rtol=0.05)


def test_memory_format_stays():
    """Weights in channels_last are in channels_last afterwards."""
    model, x = made(Coupled).eval().to(memory_format=torch.channels_last), photos()
    result = cut(model, x)
    better = sct.recover(result.model, model, [x], plan=result.plan)

    assert better.merge.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "data",
    [
        lambda x: [x],
        lambda x: [(x[:80], None), (x[80:], None)],
        lambda x: iter([{"x": x, "labels": torch.zeros(160)}]),
        lambda x: [x[:50], x[50:53], x[53:]],
    ],
    ids=["tensor", "pairs", "dicts, once", "ragged"],
)
def test_prune_recovers_on_the_data_it_is_given(data):
    """Images alone, pairs, dicts, an iterator that can be read once, batches of any size."""
    model, x = made(Coupled).eval(), photos()
    budget = sct.Budget(macs=0.6)
    plain = sct.prune(model, x[:2], method="l2", budget=budget)
    better = sct.prune(model, x[:2], method="l2", budget=budget, data=data(x), recover=sct.Reconstruct())

    assert better.plan == plain.plan
    assert distance(better.model, model, x) < 0.5 * distance(plain.model, model, x)


class Wavering(nn.Module):
    """Its course depends on what it computes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.first(x)
        return self.second(h if h.sum() > 0 else -h)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        ([], InputError, "gave 0 images"),
        ([photos(3)], InputError, "gave 3 images"),
        ([torch.ones(32, 3, 4, 4)], InputError, "constant"),
        ([photos(32) / 0], InputError, "NaN"),
        ([photos(32, channels=2)], EvidenceError, "did not run"),
        ([photos(12, size=1)], InputError, "Pass [0-9]+ images"),
    ],
    ids=["none", "few", "constant", "infinite", "other shape", "fewer rows than columns"],
)
def test_bad_images_are_refused(images, error, says):
    """What is wrong is said, and nothing is changed."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.Linear(16, 2))
    if images and images[0].shape[-1] == 1:
        model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 2, 1))
        model[0].weight.requires_grad_(False)
    plan = sct.Plan.from_keep(sct.trace(model, photos(2)), {"0": range(model[0].out_channels // 2)})
    small = sct.apply(plan, copy.deepcopy(model))
    before = state(small)
    with pytest.raises(error, match=says):
        sct.recover(small, model, images, plan=plan)

    assert same(before, small)


def test_networks_that_do_not_belong_together_are_refused():
    """Another dense network, no plan, a step that is none, a forward that decides by numbers."""
    model, x = made(Coupled).eval(), photos()
    result = cut(model, x)
    with pytest.raises(PlanError, match="another network"):
        sct.recover(result.model, made(Tied), [x], plan=result.plan)
    with pytest.raises(InputError, match=r"result\.plan"):
        sct.recover(result.model, model, [x], plan=None)
    with pytest.raises(InputError, match="no step of recovery"):
        sct.recover(result.model, model, [x], plan=result.plan, steps=sct.Reconstruct)
    with pytest.raises(InputError, match="needs images"):
        sct.prune(model, x[:2], method="l2", budget=sct.Budget(macs=0.5), recover=sct.Reconstruct())
    wavering = Wavering()
    plan = sct.Plan.from_keep(sct.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.ones(2, 4)), {})
    assert plan.keep
    with pytest.raises(InputError, match="reads numbers"):
        record(wavering, read_batch(torch.rand(8, 4), 0, torch.device("cpu")))


def test_a_replay_stops_anywhere_and_gives_the_forward():
    """From any step to any other, in-place operators included, the outputs are the model's."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.Flatten()
    )
    model.eval()
    batch = read_batch(photos(6), 0, torch.device("cpu"))
    expected = put_out(model, photos(6))
    for at in range(len(record(model, batch).steps)):
        replay = Replay.start(model, [batch])
        recording = replay.recordings[0]
        if recording.divides(at):
            replay.advance(0, at)
            replay.arrive(at)
        for _ in range(2):
            found = replay.read(0, len(recording.steps), recording.outputs)

            assert torch.equal(found[recording.outputs[0]], expected)


@pytest.mark.parametrize("match", get_args(Match))
def test_distillation_without_labels_brings_outputs_nearer(match):
    """Every way of comparing is nothing for equal outputs, and its training makes it less on the images."""
    model, x = made(Coupled).eval(), photos()
    result, distil = cut(model, x), sct.Distil(match=match, epochs=5, lr=0.02)
    better = sct.recover(result.model, model, [x], plan=result.plan, steps=distil)
    loss = distil.loss(model)
    at = [loss(put_out(m, x), None, x).item() for m in (model, better, result.model)]

    assert abs(at[0]) < 1e-6 < at[1] < 0.9 * at[2]
    assert all(p.grad is None for p in better.parameters())


def test_the_loss_of_a_loop_weighs_teacher_and_labels():
    """weight · T² KL + (1 - weight) · cross entropy, by hand; the teacher's mode stays and it gets no gradient."""
    teacher, student, x = nn.Linear(3, 4).train(), nn.Linear(3, 4), torch.randn(6, 3)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    value = sct.Distil(temperature=2.0, weight=0.25).loss(teacher)(student(x), labels, x)
    value.backward()
    p, q = (torch.softmax(m(x) / 2, 1) for m in (teacher, student))

    torch.testing.assert_close(
        value, 0.25 * 4 * (p * (p / q).log()).sum(1).mean() + 0.75 * F.cross_entropy(student(x), labels)
    )
    assert teacher.training
    assert teacher.weight.grad is None
    assert student.weight.grad is not None


def test_outputs_that_cannot_be_compared_are_refused():
    """Other shapes, no tensor, settings that teach nothing."""
    with pytest.raises(EvidenceError, match="entry by entry"):
        sct.Distil().compare(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(EvidenceError, match="no logits"):
        sct.Distil().compare("text", torch.ones(2, 4))
    with pytest.raises(InputError, match="cannot teach"):
        sct.Distil(temperature=0.0)
    with pytest.raises(InputError, match=r"Distil\(match='kld'\) is not an option: did you mean 'kl'"):
        sct.Distil(match="kld")
    with pytest.raises(InputError, match="cannot work"):
        sct.Reconstruct(sweeps=0)
    with pytest.raises(InputError, match="no part"):
        sct.RepairVariance(shrinkage=2.0)


def test_wide_layers_are_solved_by_conjugate_gradients(monkeypatch):
    """The same change of weights as from the Gram matrix, to the precision of the network's type."""
    model, x = made(Coupled).double().eval(), photos().double()
    result = cut(model, x)
    formed = sct.recover(result.model, model, [x], plan=result.plan)
    monkeypatch.setattr(normal, "WIDE", 0)
    streamed = sct.recover(result.model, model, [x], plan=result.plan)

    assert not same(state(result.model), streamed)
    for name, value in formed.state_dict().items():
        torch.testing.assert_close(streamed.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_rows_with_few_directions_are_solved_with_a_stronger_ridge():
    """Sums in float32 leave such a Gram matrix a little indefinite; NaN is refused."""
    for seed in range(10):
        torch.manual_seed(seed)
        x = (torch.randn(4000, 1, 2) @ torch.randn(1, 2, 150)).abs()
        gram = normal.Formed(normal.product(x, x))

        assert gram.solve(torch.ones(1, 150, 1, dtype=torch.float64), 1e-6 * gram.size).isfinite().all()
    with pytest.raises(EvidenceError, match="NaN"):
        normal.Formed(torch.full((1, 2, 2), torch.nan)).solve(torch.ones(1, 2, 1), torch.ones(1, 1, 1))
