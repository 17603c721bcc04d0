"""Features are compared whatever the widths; images are made from statistics alone."""

import copy

import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.errors import EvidenceError, InputError, ModelError
from secateurs.recover.features import attention, features_apart


def photos(count=64, seed=1):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.modules())


def test_attention_sees_neither_order_nor_scale_of_channels():
    x = torch.rand(3, 6, 4, 4)

    torch.testing.assert_close(attention(x), attention(5 * x[:, torch.randperm(6)]))
    torch.testing.assert_close(attention(x).square().sum(1), torch.ones(3))
    tokens = x.flatten(2).transpose(1, 2)
    torch.testing.assert_close(attention(tokens), attention(x))


def test_equal_features_cost_nothing_and_others_something():
    x, y = torch.rand(3, 6, 4, 4), torch.rand(3, 2, 4, 4)

    assert features_apart([x], [x[:, :, :]]).item() == 0
    assert features_apart([x, y], [y, x]).item() == pytest.approx(2 * features_apart([x], [y]).item())
    with pytest.raises(EvidenceError, match="16 positions and the teacher's 4"):
        features_apart([x], [y[..., :2, :2]])


def test_a_loop_compares_features_and_leaves_no_hook():
    """The gradient reaches what lies before the features, even where outputs are not compared by much."""
    dense, x = conv_net(), photos()
    small = sct.prune(dense, x[:1], method="l2", budget=sct.Budget(macs=0.5)).model
    loss = sct.Distil(weight=1.0, features=("2", "5"), feature_weight=10.0).loss(dense, small)
    plain = sct.Distil(weight=1.0).loss(dense)
    value = loss(small(x), None, x)

    assert value > plain(small(x), None, x)
    value.backward()
    assert small[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in dense.parameters())
    loss.close()
    assert hooks(dense) == hooks(small) == 0


def test_as_a_step_it_brings_features_nearer():
    dense, x = conv_net().eval(), photos()
    result = sct.prune(dense, x[:1], method="l2", budget=sct.Budget(macs=0.5))
    step = sct.Distil(features=("2",), feature_weight=100.0, epochs=8)
    better = sct.recover(result.model, dense, [x], plan=result.plan, steps=step)

    def apart(model):
        with torch.no_grad():
            return features_apart([model.eval()[:3](x)], [dense[:3](x)]).item()

    assert apart(better) < apart(result.model)
    assert hooks(dense) == hooks(better) == 0


@pytest.mark.parametrize(
    ("features", "student", "words"),
    [(("2",), False, "no student is named"), (("tow",), True, "'tow', and Sequential has no such module")],
)
def test_bad_features_are_told(features, student, words):
    dense = conv_net()
    with pytest.raises(InputError, match=words):
        sct.Distil(features=features).loss(dense, copy.deepcopy(dense) if student else None)


def test_features_without_positions_are_told():
    dense, x = conv_net(), photos(4)
    loss = sct.Distil(features=("8",)).loss(dense, copy.deepcopy(dense))
    with pytest.raises(EvidenceError, match="'8' gave no output of three dimensions"):
        loss(dense(x), None, x)


# ---- images from statistics ----


def trained():
    """A network whose norms have seen images of another mean and spread than noise has."""
    model = conv_net()
    for seed in range(40):
        model(3 + 2 * photos(32, seed))
    return model.eval()


def seen(model, x):
    """What the first norm sees: mean and spread of each channel."""
    with torch.no_grad():
        flat = model[0](x).transpose(0, 1).flatten(1)
    return flat.mean(1), flat.std(1)


def test_made_images_have_the_statistics_of_training():
    model, noise = trained(), photos(64)
    before = copy.deepcopy(model.state_dict())
    found = sct.synthesise(model, noise[:1], images=64, steps=60)
    [x] = found

    assert x.shape == (64, 3, 8, 8)
    wrong, right = ((seen(model, t)[0] - model[1].running_mean).abs().mean() for t in (noise, x))
    assert right < 0.5 * wrong
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(x, sct.synthesise(model, noise[:1], images=64, steps=60)[0])


def test_recovery_without_data_beats_recovery_on_noise():
    """Reconstruct on made images comes nearer to the dense network on real ones than it does on noise."""
    model, real = trained(), 3 + 2 * photos(256, 99)
    result = sct.prune(model, real[:1], method="l2", budget=sct.Budget(macs=0.5))

    def error(images):
        better = sct.recover(result.model, model, images, plan=result.plan)
        with torch.no_grad():
            return (better.eval()(real) - model(real)).square().mean().item()

    assert error(sct.synthesise(model, real[:1], images=128, steps=60)) < error([photos(128)])


def test_what_cannot_be_made_is_told():
    with pytest.raises(ModelError, match="no BatchNorm with running statistics"):
        sct.synthesise(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(InputError, match="int64"):
        sct.synthesise(conv_net(), torch.zeros(1, 3, 8, 8, dtype=torch.int64))
    with pytest.raises(InputError, match="images=1"):
        sct.synthesise(conv_net(), torch.zeros(1, 3, 8, 8), images=1)
