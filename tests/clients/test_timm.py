"""timm: a training loop as in its train.py, with averaged weights and CheckpointSaver, and the model built again."""

from argparse import Namespace

import pytest
import torch
from torch.nn import functional as F

import secateurs as sct

timm = pytest.importorskip("timm")

from secateurs.integrations import timm as clients  # noqa: E402

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]
X = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])


def trained(model, folder, before=lambda *_: None, after=lambda model: model, epochs=2):
    """The parts of timm's train.py that hold on to the model: optimizer, scaler, average, checkpoints."""
    from timm.optim import create_optimizer_v2
    from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler

    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9)
    ema, scaler = ModelEmaV3(model, decay=0.5), NativeScaler(device="cpu")
    before(optimizer, ema.module)
    folder.mkdir()
    saver = CheckpointSaver(
        model, optimizer, args=Namespace(model="resnet10t"), model_ema=ema, checkpoint_dir=str(folder)
    )
    for epoch in range(epochs):
        model.train()
        for step in range(2):
            optimizer.zero_grad()
            scaler(F.cross_entropy(model(X), Y), optimizer, clip_grad=1.0, parameters=model.parameters())
            ema.update(model, step=epoch * 2 + step)
        if epoch == epochs - 1:
            after(model)
        saver.save_checkpoint(epoch, metric=float(epoch))
    return ema.module


def same(one, other):
    with torch.no_grad():
        return torch.allclose(one.eval()(X), other.eval()(X), atol=1e-5)


def test_a_pruned_model_trains_and_is_built_again(tmp_path):
    """create_model, prune, train with an average; the checkpoint and the plan give both models back."""
    torch.manual_seed(0)
    dense = timm.create_model("resnet10t", num_classes=5)
    result = sct.prune(dense, X, method="magnitude", budget=sct.Budget(macs=0.5))
    averaged = trained(result.model, tmp_path / "run")
    clients.write_plan(result.plan, tmp_path / "run")
    best = tmp_path / "run" / "model_best.pth.tar"

    options = dict(plan=tmp_path / "run", checkpoint_path=best, num_classes=5)
    assert same(clients.create_model("resnet10t", **options), averaged)
    assert same(clients.create_model("resnet10t", use_ema=False, **options), result.model)
    assert not same(result.model, averaged)


def test_a_session_prunes_in_the_loop(tmp_path):
    """The average is cut with the model, and the last checkpoint is the pruned one."""
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=5)
    session = sct.Session(model, X, method="sfp", budget=sct.Budget(macs=0.5), steps_per_epoch=2, epochs=2)
    averaged = trained(
        model,
        tmp_path / "run",
        before=lambda optimizer, ema: session.attach(optimizer, ema=ema),
        after=lambda _: session.finish(),
    )

    last = tmp_path / "run" / "last.pth.tar"
    assert same(clients.create_model("resnet10t", plan=session.plan, checkpoint_path=last, num_classes=5), averaged)


def test_bad_input_is_refused_by_name(tmp_path):
    """Dense weights, a plan of another model, a folder without one."""
    dense = timm.create_model("resnet10t", num_classes=5)
    plan = sct.Plan.identity(sct.trace(dense, X))
    with pytest.raises(sct.errors.InputError, match="pretrained=True"):
        clients.create_model("resnet10t", plan=plan, pretrained=True)
    with pytest.raises(sct.errors.PlanError, match="another network"):
        clients.create_model("resnet10t", plan=plan, num_classes=6)
    with pytest.raises(sct.errors.StoreError, match=r"no pruning_plan\.json"):
        clients.create_model("resnet10t", plan=tmp_path)
