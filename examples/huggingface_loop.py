"""Pruning inside Hugging Face's Trainer: three lines of callback attach the session.

python examples/huggingface_loop.py
"""

import tempfile

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

import secateurs as sct
from secateurs.app.data import load
from secateurs.app.models import resnet20

EPOCHS, BATCH = 12, 64


class Classifier(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Prune(TrainerCallback):
    def on_train_begin(self, args, state, control, optimizer=None, **kwargs) -> None:  # noqa: ANN001, ANN003
        session.attach(optimizer)


splits = load("digits")
rows = [dict(zip(("pixel_values", "labels"), splits.train[i], strict=True)) for i in range(len(splits.train))]
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    num_train_epochs=EPOCHS,
    per_device_train_batch_size=BATCH,
    learning_rate=0.05,
    optim="sgd",
    dataloader_drop_last=True,
    use_cpu=True,
    report_to=[],
    save_strategy="no",
    seed=0,
)
model = Classifier(resnet20(in_channels=1, num_classes=10))
steps = len(rows) // BATCH
session = sct.Session(
    model,
    {"pixel_values": torch.zeros(1, *splits.shape)},
    method="greg2",
    budget=sct.Budget(macs=0.5),
    steps_per_epoch=steps,
    epochs=EPOCHS,
)
Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[Prune()]).train()
small = session.finish()
print(session.plan.summary())
print(f"{session.cost.macs:,} MACs, {session.cost.params:,} parameters")
