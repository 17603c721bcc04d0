"""The same pruning inside four loops that know nothing of it: plain, Lightning, timm-style, Hugging Face."""

import copy

import pytest
import torch
from tests.laws.loops import EPOCHS, HALF, LESSONS, METHODS, PER_EPOCH, STEPS, X, pupil, run, session, sgd
from torch import nn
from torch.nn import functional as F

import secateurs as sct

names = pytest.mark.parametrize("name", ["GReg1", "IncReg", "ASRFP", "GroupFisher"])


def macs(model):
    return sct.trace(model, X).cost().macs


# --- Lightning ---


def lightning_module(model):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return sgd(self.model)

    return Module()


def lightning_trainer(folder, callback, epochs=EPOCHS, **options):
    lightning = pytest.importorskip("lightning.pytorch")
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[callback], **options,
    )  # fmt: skip


def per_epoch(epoch):
    return LESSONS[epoch * PER_EPOCH : (epoch + 1) * PER_EPOCH]


class Lessons(torch.utils.data.IterableDataset):
    """The batches of the plain loop, epoch by epoch."""

    def __init__(self, epoch=0):
        self.epoch = epoch

    def __iter__(self):
        self.epoch += 1
        return iter(per_epoch(self.epoch - 1))

    def __len__(self):
        return PER_EPOCH


def loader(epoch=0):
    return torch.utils.data.DataLoader(Lessons(epoch), batch_size=None, num_workers=0)


@names
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging
def test_lightning(name, tmp_path):
    """A callback that attaches and finishes: the plan and the weights of the plain loop."""
    from secateurs.app.training.session_callback import SessionCallback

    plain = run(METHODS[name])
    expected = plain.finish().state_dict()
    model = pupil()
    started = session(model, METHODS[name])
    lightning_trainer(tmp_path, SessionCallback(started), enable_checkpointing=False).fit(
        lightning_module(model), loader()
    )

    assert started.plan == plain.plan
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["GroupFisher", "GReg2"])
def test_lightning_resumes_a_smaller_network(name, tmp_path):
    """Stopped after the network shrank, resumed from the checkpoint in a fresh module: the same bits at the end."""
    from secateurs.app.training.session_callback import SessionCallback

    expected = run(METHODS[name]).finish().state_dict()
    model = pupil()
    started = session(model, METHODS[name])

    class Stop(pytest.importorskip("lightning.pytorch").Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 5:
                trainer.save_checkpoint(tmp_path / "last.ckpt")
                raise KeyboardInterrupt

    trainer = lightning_trainer(tmp_path, SessionCallback(started), enable_checkpointing=False)
    trainer.callbacks.append(Stop())
    with pytest.raises(SystemExit):
        trainer.fit(lightning_module(model), loader())
    assert len(started.history.of("removed")) > 0

    model = pupil(seed=5)
    started = session(model, METHODS[name])
    lightning_trainer(tmp_path, SessionCallback(started), enable_checkpointing=False).fit(
        lightning_module(model), loader(6), ckpt_path=tmp_path / "last.ckpt"
    )

    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


# --- timm ---


@names
def test_a_timm_loop_with_ema_and_amp(name):
    """timm's optimizer factory, scheduler, NativeScaler with clipping and ModelEmaV3, as its train script has them."""
    pytest.importorskip("timm")
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3, NativeScaler

    model = pupil()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, weight_decay=1e-4, momentum=0.9)
    scheduler = CosineLRScheduler(optimizer, t_initial=EPOCHS)
    ema, scaler = ModelEmaV3(model, decay=0.9), NativeScaler(device="cpu")
    started = session(model, METHODS[name])
    started.attach(optimizer, ema=ema.module)
    for epoch in range(EPOCHS):
        model.train()
        for step, (x, y) in enumerate(per_epoch(epoch)):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            ema.update(model, step=epoch * PER_EPOCH + step)
        scheduler.step(epoch + 1)
    small = started.finish()

    assert macs(small) <= macs(pupil()) // 2
    assert [p.shape for p in ema.module.parameters()] == [p.shape for p in small.parameters()]
    assert torch.isfinite(ema.module(LESSONS[0][0])).all()


# --- Hugging Face ---


class Classifier(nn.Module):
    """What a Hugging Face Trainer trains: keyword inputs, a loss among the outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, labels=None):
        logits = self.model(pixel_values)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("name", ["GReg1", pytest.param("GroupFisher", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")  # transformers and accelerate warn of their own ways
def test_hugging_face_trainer(name, tmp_path):
    """transformers.Trainer with clipping and accumulation; the session is attached in a callback of three lines."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = Classifier(pupil())
    started = sct.Session(
        model, {"pixel_values": X}, method=METHODS[name], budget=HALF, steps_per_epoch=PER_EPOCH, epochs=EPOCHS
    )

    class Prune(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **_):
            started.attach(optimizer)

    rows = [{"pixel_values": x[i], "labels": y[i]} for x, y in LESSONS[:4] for i in range(12)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=EPOCHS, per_device_train_batch_size=6, gradient_accumulation_steps=2,
        learning_rate=0.05, optim="sgd", max_grad_norm=1.0, report_to=[], save_strategy="no", logging_strategy="no",
        use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Prune()]).train()

    assert started.step == STEPS
    small = started.finish()
    assert macs(small.model) <= macs(pupil()) // 2
    assert small(X)["logits"].shape == (1, 3)


# --- plain, with everything a plain loop may have ---


@names
def test_a_plain_loop_with_scheduler_accumulation_and_two_optimizers(name):
    """Micro-batches, a learning rate schedule, and the classifier trained by an optimizer of its own."""
    model = pupil()
    head = {id(p) for p in model.head.parameters()}
    first = sgd(nn.ModuleList([part for name, part in model.named_children() if name != "head"]))
    second = torch.optim.AdamW([p for p in model.parameters() if id(p) in head], lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(first, 0.1, total_steps=STEPS + 1)
    started = session(model, METHODS[name])
    started.attach(first, second)
    model.train()
    for x, y in LESSONS:
        first.zero_grad()
        second.zero_grad()
        for part in (slice(0, 6), slice(6, 12)):
            (F.cross_entropy(model(x[part]), y[part]) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        second.step()
        first.step()
        scheduler.step()
    small = started.finish()
    twin = copy.deepcopy(small)

    assert macs(twin) <= macs(pupil()) // 2
    assert started.step == STEPS
