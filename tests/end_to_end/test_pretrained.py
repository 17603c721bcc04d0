"""Starting from what people have: published weights by name, a repository, a .pth file; the head fits the data."""

import urllib.error

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.models import _builder
from torch import nn
from torchvision.models import WeightsEnum
from transformers import ResNetConfig, ResNetForImageClassification

import secateurs as sct
from secateurs.app import models
from secateurs.app.cli import main
from secateurs.app.cli.arguments import compose
from secateurs.app.cli.pretrained import classes_of, initialise
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.data.splits import Splits
from secateurs.errors import InputError

NAME = "torchvision:mobilenet_v3_small"
SMALL = ["--device", "cpu", "--threads", "1", "--batch-size", "256", "--epochs", "0", "--macs", "0.8"]


def data(classes, channels=3):
    """Splits of which only the shape and the classes are asked."""
    nothing = [(torch.zeros(channels, 8, 8), 0)]
    return Splits("none", nothing, nothing, nothing, nothing, tuple(map(str, range(classes))), (channels, 8, 8))


def built(recipe, splits):
    return models.build(recipe.model, in_channels=splits.shape[0], num_classes=classes_of(recipe, splits))


@pytest.fixture
def published(monkeypatch):
    """What torchvision would fetch: a state dict that was made here."""
    torch.manual_seed(7)
    state = torchvision.models.mobilenet_v3_small().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **given: dict(state) if given["weights_only"] else {})
    return state


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_a_published_network_gets_a_head_for_the_data(published, weights):
    """Every other tensor is the publisher's; the names of the new ones are told, so that they are trained."""
    recipe = Recipe(model=NAME, weights=weights)
    model = built(recipe, data(3))

    assert initialise(model, recipe, data(3)) == ("classifier.3.weight", "classifier.3.bias")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3) if model.eval() else None
    for name, tensor in model.state_dict().items():
        assert name.startswith("classifier.3") or torch.equal(tensor, published[name])


@pytest.mark.parametrize("how", [{"keep_head": True, "classes": 3}, {"keep_head": False, "classes": 1000}])
def test_a_head_that_fits_or_is_to_be_kept_is_kept(published, how):
    recipe = Recipe(model=NAME, weights="DEFAULT", keep_head=how["keep_head"])
    model = built(recipe, data(how["classes"]))

    assert initialise(model, recipe, data(how["classes"])) == ()
    assert all(torch.equal(tensor, published[name]) for name, tensor in model.state_dict().items())


def test_a_file_of_other_classes_gives_all_but_the_head(tmp_path):
    """Stored by somebody who had a thousand classes."""
    state = torchvision.models.mobilenet_v3_small().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    recipe = Recipe(model=NAME, weights=str(tmp_path / "w.safetensors"))
    model = built(recipe, data(2))

    assert initialise(model, recipe, data(2)) == ("classifier.3.weight", "classifier.3.bias")
    assert torch.equal(model.features[0][0].weight, state["features.0.0.weight"])


def test_a_body_of_another_width_is_refused(tmp_path):
    """It is no matter of classes."""
    save_file(torchvision.models.mobilenet_v3_large().state_dict(), tmp_path / "w.safetensors")
    recipe = Recipe(model=NAME, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match="is not of this model"):
        initialise(built(recipe, data(2)), recipe, data(2))


@pytest.mark.slow
def test_timm_takes_its_tags_and_channels(monkeypatch):
    """`timm:NAME` with the tag in the name or in --weights; the first convolution is fitted by timm."""
    state = timm.create_model("resnet18").state_dict()
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: dict(state))
    for name, weights in (("resnet18", "DEFAULT"), ("resnet18.a1_in1k", "DEFAULT"), ("resnet18", "a1_in1k")):
        recipe = Recipe(model=f"timm:{name}", weights=weights)
        model = built(recipe, data(4, channels=1))
        assert set(initialise(model, recipe, data(4, channels=1))) == {"fc.weight", "fc.bias"}
        assert torch.equal(model.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
        assert model.conv1.weight.shape[1] == 1


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        (NAME, "IMAGENET1K_V9", "did you mean 'IMAGENET1K_V1'"),
        ("timm:resnet18", "a1_in2k", "did you mean 'a1_in1k'"),
        ("timm:resnet18.a1_in1k", "a2_in1k", "has no weights 'a2_in1k'"),
        ("timm:test_nothing", "DEFAULT", "no model for images"),
        ("hf:", "DEFAULT", "no model is called"),
        ("resnet20", "DEFAULT", "DEFAULT: this is not there"),
    ],
)
def test_unknown_weights_are_refused_with_the_near_name(model, weights, words, tmp_path, capsys):
    flags = ["--model", model, "--weights", weights, "--macs", "0.5", "--out", str(tmp_path / "out")]
    images = tmp_path / "photos"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(images / name / f"{index}.png")

    assert main(["prune", *flags, "--data", f"imagefolder:{images}", "--image-size", "32"]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert len(told) < 600
    assert not (tmp_path / "out").exists()


def test_no_network_is_one_sentence(monkeypatch):
    """Neither in the cache nor to be had."""

    def down(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    recipe = Recipe(model=NAME, weights="DEFAULT")
    monkeypatch.setattr(WeightsEnum, "get_state_dict", down)
    with pytest.raises(InputError, match=r"could not be fetched \(.*Name or service not known.*--weights FILE"):
        initialise(built(recipe, data(2)), recipe, data(2))


@pytest.mark.slow
def test_a_repository_is_pruned(tmp_path):
    """A folder as transformers saves one: seven classes there, ten here, so that the head is trained first."""
    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_labels=7,
        downsample_in_first_stage=False,
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path / "repo")
    flags = ["--model", f"hf:{tmp_path / 'repo'}", "--weights", "DEFAULT", "--train-epochs", "1", *SMALL]

    assert main(["prune", *flags, "--out", str(tmp_path / "out")]) == 0
    assert RunFolder(tmp_path / "out").done("trained", "history")
    assert main(["prune", "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert main(["prune", *flags, "--train-epochs", "0", "--out", str(tmp_path / "no")]) == 2
    assert main(["prune", *flags[:2], *SMALL, "--weights", "absent-revision/x", "--out", str(tmp_path / "no")]) == 2


@pytest.fixture
def own(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, num_classes))"
    )
    return f"{tmp_path / 'net.py'}:net", nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.mark.parametrize(
    "wrap",
    [lambda s: s, lambda s: {"epoch": 3, "state_dict": s}, lambda s: {"model": s}],
    ids=["plain", "checkpoint", "model"],
)
def test_a_pth_file_is_read_when_asked(own, wrap, tmp_path, capsys):
    """Its tensors, by torch's own restricted reader; unasked it is left alone."""
    name, net = own
    torch.save(wrap(net.state_dict()), tmp_path / "w.pth")
    flags = ["prune", "--model", name, "--weights", str(tmp_path / "w.pth"), *SMALL, "--out", str(tmp_path / "out")]
    assert main(flags) == 2
    assert "--allow-pth" in capsys.readouterr().err

    recipe = Recipe(model=name, weights=str(tmp_path / "w.pth"))
    model = built(recipe, data(10, channels=1))
    assert initialise(model, recipe, data(10, channels=1)) == ()
    assert all(torch.equal(tensor, net.state_dict()[n]) for n, tensor in model.state_dict().items())


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


CONTENTS = {
    "code": Evil(),
    "code inside": {"state_dict": Evil()},
    "a list": [1, 2],
    "text": {"a": "text"},
    "cut off": b"PK\x03\x04 cut off",
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_is_no_state_dict_is_refused_and_never_run(own, kind, tmp_path, capsys):
    (name, _), content = own, CONTENTS[kind]
    if isinstance(content, bytes):
        (tmp_path / "w.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "w.pth")
    flags = ["prune", "--model", name, "--weights", str(tmp_path / "w.pth"), *SMALL, "--out", str(tmp_path / "out")]

    assert main([*flags, "--allow-pth"]) == 2
    told = capsys.readouterr().err
    assert "state dict" in told
    assert told.count("\n") == 1


def test_weights_of_a_pruned_network_are_refused_as_such(own, tmp_path):
    """The plan beside them tells what they are."""
    name, net = own
    result = sct.prune(net, torch.zeros(1, 1, 8, 8), method="l2", budget=sct.Budget(macs=0.5))
    sct.save(result.model, result.plan, tmp_path / "small")
    recipe = Recipe(model=name, weights=str(tmp_path / "small" / "model.safetensors"))
    with pytest.raises(InputError, match=r"of a pruned network.*secateurs\.load"):
        initialise(built(recipe, data(10, channels=1)), recipe, data(10, channels=1))


def test_a_time_without_a_runtime_is_refused_in_words_of_flags(capsys, tmp_path):
    """Not in those of Python."""
    assert main(["prune", "--latency", "10ms", "--out", str(tmp_path / "out")]) == 2
    assert "add --runtime onnxruntime" in capsys.readouterr().err


def test_trained_weights_are_trained_on_gently():
    """Unless the flags say otherwise."""
    assert compose(Recipe(), {"weights": "DEFAULT", "model": NAME}).train_lr == 0.01
    assert compose(Recipe(), {"weights": "DEFAULT", "model": NAME, "train_lr": 0.1}).train_lr == 0.1
    assert compose(Recipe(), {}).train_lr == Recipe().train_lr
