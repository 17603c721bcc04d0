"""Models: the networks of the papers, and every way to name somebody else's."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.app import models
from secateurs.app.data import load
from secateurs.errors import InputError, ModelError, RecipeError

PARAMETERS = {  # millions, He et al. 2015, table 6; the last from Li et al. 2016, table 1
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet44": 0.66,
    "resnet56": 0.85,
    "resnet110": 1.7,
    "vgg16-bn": 15,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_paper_s(name):
    """Each network has as many parameters as its paper prints, to the digits printed."""
    count = sum(p.numel() for p in models.build(name, in_channels=3, num_classes=10).parameters()) / 1e6
    digits = 0 if PARAMETERS[name] == 15 else 1 if PARAMETERS[name] == 1.7 else 2

    assert PARAMETERS[name] == pytest.approx(count, abs=0.5 * 10**-digits + 5e-3)


LARGE = ("vgg19-bn", "resnet18", "resnet34")

COSTS = {  # million parameters, million multiply-accumulates: EPruner's README and the ratios that it prints
    "vgg16-bn": (14.7, 314.5),
    "googlenet": (6.2, 1530.0),
    "resnet56": (0.85, 127.6),
    "resnet110": (1.73, 257.0),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_what_papers_compare_with(name):
    """Parameters and multiply-accumulates agree with the papers' dense networks to 2 % (some counters add norms)."""
    model = models.build(name, in_channels=3, num_classes=10).eval()
    cost = sct.trace(model, torch.zeros(1, 3, 32, 32)).cost()

    assert (cost.params / 1e6, cost.macs / 1e6) == pytest.approx(COSTS[name], rel=0.02)


@pytest.mark.parametrize(
    "name",
    ["vgg13", "mobilenet-v1", "resnet56-conv", *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)],
)
def test_every_network_is_pruned_to_half(name):
    """The networks of the papers' experiments trace, reach half of their multiply-accumulates, and equal their mask."""
    model = models.build(name, in_channels=3, num_classes=10).eval()
    x = torch.zeros(1, 3, 32, 32)
    result = sct.prune(model, x, method="l2", budget=sct.Budget(macs=0.5))

    assert result.cost_after.macs <= result.cost_before.macs / 2
    sct.verify(result.plan, model, x, per_group=False).raise_if_failed()


def test_resnet_keys_are_those_of_the_checkpoints():
    """A state dict has exactly the documented names."""
    layers = ("conv1", "bn1", "conv2", "bn2")
    blocks = {f"layer{s}.{b}.{layer}" for s in (1, 2, 3) for b in range(3) for layer in layers}

    found = {name.rpartition(".")[0] for name in models.resnet20().state_dict()}

    assert {"conv1", "bn1", "linear", *blocks} == found


def test_option_a_shortcut_is_subsampling_and_zeros():
    """With a silent residual branch, a block that changes shape gives the strided input between zero channels."""
    block = models.resnet20().layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8)

    expected = torch.cat([torch.zeros(2, 8, 4, 4), x[:, :, ::2, ::2], torch.zeros(2, 8, 4, 4)], dim=1)

    assert torch.equal(expected, block(x))


@pytest.mark.parametrize("side", [8, 32, 33])
def test_resnet_runs_on_any_size(side):
    """Eight, thirty-two or an odd number of pixels a side; any number of channels and classes."""
    model = models.build("resnet20", in_channels=1, num_classes=7)

    assert (2, 7) == model(torch.randn(2, 1, side, side)).shape


def test_depth_that_is_not_6n_plus_2_is_refused():
    """The family has no 21-layer member."""
    with pytest.raises(ValueError, match="6n \\+ 2"):
        models.CifarResNet(21, in_channels=3, num_classes=10)


def test_published_face_network_loads(data_root):
    """A MobileFaceNet trained on CASIA-WebFace fits ours, key by key."""
    model = models.MobileFaceNet().eval()
    model.load_state_dict(load_file(data_root / "checkpoints" / "mobilefacenet_casia_112x96.safetensors"))

    assert (2, 128) == model(torch.randn(2, 3, 112, 96)).shape


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_published_checkpoints_load(data_root, name):
    """The widespread CIFAR-10 checkpoints have every tensor of ours but BatchNorm's counters, and no other."""
    weights = load_file(data_root / "checkpoints" / f"cifar10_{name}.safetensors")
    model = models.build(name, in_channels=3, num_classes=10)

    result = model.load_state_dict(weights, strict=False)

    assert ([], []) == (result.unexpected_keys, result.missing_keys)
    assert {"num_batches_tracked"} == {name.rpartition(".")[2] for name in model.state_dict().keys() - weights.keys()}


@pytest.mark.slow
def test_published_resnet20_is_as_accurate_as_documented(data_root):
    """91.73 % of the CIFAR-10 test images, as measured where the checkpoint comes from."""
    if not (data_root / "cifar-10-batches-py").is_dir():
        pytest.skip(f"needs cifar-10-batches-py under {data_root}")
    model = models.resnet20().eval()
    model.load_state_dict(load_file(data_root / "checkpoints" / "cifar10_resnet20.safetensors"), strict=False)
    test = load(f"cifar10:{data_root}").test
    with torch.inference_mode():
        parts = (test.__getitems__(list(range(k, k + 500))) for k in range(0, len(test), 500))
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in parts)

    assert 9173 == right


def test_torchvision_by_name():
    """Any torchvision classifier, with as many outputs as there are classes."""
    model = models.build("torchvision:resnet18", in_channels=3, num_classes=7)

    assert 7 == model.fc.out_features


def test_googlenet_is_built_without_a_warning():
    """Its construction would warn of a change of default; warnings are errors here."""
    assert isinstance(models.build("torchvision:googlenet", in_channels=3, num_classes=10), nn.Module)


def test_timm_by_name_takes_any_number_of_channels():
    """Any timm model, on one channel too."""
    pytest.importorskip("timm", reason="needs timm")
    model = models.build("timm:resnet10t", in_channels=1, num_classes=3)

    assert (1, 3) == model.eval()(torch.randn(1, 1, 64, 64)).shape


OWN = """
from dataclasses import dataclass
from beside import WIDTH
from torch import nn

@dataclass
class Settings:
    width: "int" = WIDTH

def net(num_classes, width=Settings().width):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, num_classes))

def fixed():
    return nn.Flatten()

def number(**anything):
    return len(anything)

def broken():
    return 1 / 0
"""


@pytest.fixture
def own(tmp_path):
    """A user's file of builders, with a module beside it."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("WIDTH = 5")
    return f"{tmp_path}/own.py"


def test_function_in_a_file(own):
    """A builder is called with what it takes, and may import what lies beside it and define dataclasses."""
    assert 3 == models.build(f"{own}:net", in_channels=1, num_classes=3)[2].out_features
    assert isinstance(models.build(f"{own}:fixed", in_channels=1, num_classes=3), nn.Flatten)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("resnet21", RecipeError, "did you mean .*'resnet20'"),
        ("torchvision:resnet19", RecipeError, "did you mean 'resnet18'"),
        ("torchvision:raft_small", RecipeError, "no model for images called"),
        ("timm:resnet19", RecipeError, "did you mean"),
        ("absent.py:net", InputError, "absent.py of the model .* is not there"),
        ("absent.py", RecipeError, "absent.py:FUNCTION"),
        ("", RecipeError, "Known:"),
    ],
)
def test_unknown_names_are_refused_with_near_matches(name, error, words):
    """Before anything is built."""
    with pytest.raises(error, match=words):
        models.check_name(name)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("nett", RecipeError, "did you mean 'net'"),
        ("number", ModelError, "returned int, not a torch.nn.Module"),
        ("broken", ModelError, "ZeroDivisionError"),
    ],
)
def test_bad_functions_are_refused(own, function, error, words):
    """A function that is not there, returns no module, or raises."""
    with pytest.raises(error, match=words):
        models.build(f"{own}:{function}", in_channels=1, num_classes=3)


def test_bad_file_is_refused(tmp_path):
    """A file with an error in it names the file and the error."""
    (tmp_path / "own.py").write_text("import nothing_of_this_name")

    with pytest.raises(ModelError, match=r"own\.py cannot be imported: ModuleNotFoundError"):
        models.build(f"{tmp_path}/own.py:net", in_channels=1, num_classes=3)


def test_torchvision_on_one_channel_names_the_ways_out():
    """torchvision's builders take three channels only."""
    with pytest.raises(InputError, match="timm:NAME"):
        models.build("torchvision:resnet18", in_channels=1, num_classes=10)


def test_initialisation_follows_the_seed():
    """The same seed gives the same network, another another."""

    def digest(seed):
        torch.manual_seed(seed)
        weights = b"".join(p.detach().numpy().tobytes() for p in models.resnet20().parameters())
        return hashlib.sha256(weights).hexdigest()

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_a_model_s_shape_is_native():
    """The shape that `inspect` takes where none is given runs."""
    for name in ("resnet20", "vgg16-bn"):
        model = models.build(name, in_channels=3, num_classes=10).eval()
        logits = model(torch.zeros(models.native_shape(name)))

        assert (1, 10) == logits.shape
        assert torch.isfinite(F.softmax(logits, 1)).all()
    assert models.native_shape("own.py:net") is None
