"""A client that is not installed is asked for by the name of its extra."""

import sys

import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.integrations import huggingface, ultralytics
from secateurs.integrations import timm as timm_client


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("ultralytics", lambda: ultralytics.prune("yolo.yaml", budget=sct.Budget(macs=0.5))),
        ("transformers", lambda: huggingface.from_pretrained("folder")),
        ("timm", lambda: timm_client.create_model("resnet10t", plan="folder")),
    ],
)
def test_a_missing_package_names_its_extra(package, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    extra = package.replace("transformers", "huggingface")
    with pytest.raises(sct.errors.InputError, match=rf"secateurs\[{extra}\]"):
        call()


def test_a_plan_lies_beside_weights_and_is_replayed(tmp_path):
    """Written, read from the folder or the file, and replayed; the files of others stay."""
    from secateurs.integrations.plan_file import PLAN_FILE, check_left, read_plan, replay, write_plan

    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    result = sct.prune(net, torch.zeros(1, 4), method="magnitude", budget=sct.Budget(macs=0.5))
    (tmp_path / "weights").write_bytes(b"theirs")
    file = write_plan(result.plan, tmp_path)

    assert file == tmp_path / PLAN_FILE
    assert read_plan(tmp_path) == read_plan(file) == result.plan
    assert (tmp_path / "weights").read_bytes() == b"theirs"
    check_left(result.plan, replay(read_plan(file), nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))))
    with pytest.raises(sct.errors.StoreError, match="not what the plan leaves"):
        check_left(result.plan, net)


def test_an_object_around_a_network_names_the_integration():
    """A pipeline, or a predictor that is a module, of a package that an integration knows."""
    inner = nn.Linear(4, 2)
    pipeline = type("Pipeline", (), {"__module__": "transformers.pipelines"})()
    pipeline.model = inner
    with pytest.raises(sct.errors.ModelError, match=r"'model'.*integrations\.huggingface"):
        sct.trace(pipeline, None)

    def refuse(self, x):
        raise NotImplementedError

    predictor = type("YOLO", (nn.Module,), {"__module__": "ultralytics.engine", "forward": refuse})()
    predictor.model = inner
    with pytest.raises(sct.errors.TraceError, match=r"integrations\.ultralytics\.prune"):
        sct.trace(predictor, torch.zeros(1, 4))
