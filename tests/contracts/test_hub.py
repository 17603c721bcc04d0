"""The Hub: what is uploaded, what comes back, and what is refused, against a server of ours that speaks its API."""

import json

import pytest
import torch
from tests.contracts.fake_hub import COMMIT, fake_hub
from torch import nn

import secateurs as sct

pytest.importorskip("huggingface_hub")

REPO = "somebody/half"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


@pytest.fixture
def saved(tmp_path):
    """A folder as a run leaves it."""
    x = torch.randn(1, 3, 12, 12)
    result = sct.prune(net(), x, method="l2", budget=sct.Budget(macs=0.5))
    folder = sct.save(result.model, result.plan, tmp_path / "half")
    figures = {"accuracy": 0.99, "macs": 1000, "params": 10, "latency": 0.002}
    report = {
        "title": "a net | pruned",
        "before": figures,
        "after": {**figures, "macs": 500},
        "conditions": {"seed": 0},
    }
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "recipe.yaml").write_text("model: resnet20\ndata: imagefolder:/home/me/photos\nmacs: 0.5\n")
    (folder / "checkpoint.ckpt").write_bytes(b"private")
    return folder, result.model.eval(), x


def test_what_is_pushed_is_pulled(hub, saved):
    """Plan, weights and card go up, and nothing else; what comes back computes the same, bit for bit."""
    folder, small, x = saved
    where = sct.push(folder, REPO, license_id="apache-2.0", token="t", endpoint=hub.address)

    assert where.endswith(COMMIT)
    assert hub.made.get("private") or hub.made.get("visibility") == "private"
    assert set(hub.files) == {"plan.json", "model.safetensors", "README.md"}
    assert torch.equal(sct.pull(REPO, net(), token="t", endpoint=hub.address).eval()(x), small(x))
    assert not any("README" in path for path in hub.seen if "/resolve/" in path)


def test_the_card_says_what_was_measured(hub, saved):
    """Licence, figures, recipe and plan; no path of the machine."""
    sct.push(saved[0], REPO, license_id="cc-by-4.0", token="t", endpoint=hub.address)
    card = hub.files["README.md"].decode()

    assert "license: cc-by-4.0" in card
    assert "| MACs | 1,000 | 500 |" in card
    assert "# a net / pruned" in card
    assert "macs: 0.5" in card
    assert "`0.weight`" in card
    assert "/home" not in card


def test_damage_is_not_pushed(hub, saved):
    """A folder that `load` would refuse is refused before the Hub hears of it."""
    weights = saved[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(sct.errors.DamageError):
        sct.push(saved[0], REPO, license_id="apache-2.0", token="t", endpoint=hub.address)
    assert not hub.seen


def test_a_changed_model_is_not_pulled(hub, saved):
    """What the Hub serves is checked as any folder is, and the model given stays as it was."""
    sct.push(saved[0], REPO, license_id="apache-2.0", token="t", endpoint=hub.address)
    hub.files["model.safetensors"] = hub.files["model.safetensors"][:-4] + b"\0\0\0\1"
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    with pytest.raises(sct.errors.DamageError):
        sct.pull(REPO, model, token="t", endpoint=hub.address)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_refusals_are_sentences(hub, saved):
    """No rights, no such files, no name, no licence: an error of ours with the Hub's reason."""
    with pytest.raises(sct.errors.StoreError):
        sct.pull(REPO, net(), token="t", endpoint=hub.address)
    hub.refuses = True
    with pytest.raises(sct.errors.StoreError, match="did not serve"):
        sct.push(saved[0], REPO, license_id="apache-2.0", token="t", endpoint=hub.address)
    with pytest.raises(sct.errors.InputError, match="no name"):
        sct.push(saved[0], "not a name!", license_id="apache-2.0", token="t", endpoint=hub.address)
    with pytest.raises(sct.errors.InputError, match="licence"):
        sct.push(saved[0], REPO, license_id="my own\nlicence", token="t", endpoint=hub.address)
