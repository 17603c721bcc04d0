"""Pruning inside Lightning's Trainer: a callback that attaches when training starts and finishes when it ends.

python examples/lightning_loop.py
"""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import secateurs as sct
from secateurs.app.data import load
from secateurs.app.data.images import as_batch
from secateurs.app.models import resnet20
from secateurs.app.training.session_callback import SessionCallback

EPOCHS = 12


class Digits(pl.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


pl.seed_everything(0)
splits = load("digits")
loader = DataLoader(splits.train, batch_size=64, shuffle=True, drop_last=True, collate_fn=as_batch)
model = resnet20(in_channels=1, num_classes=10)
session = sct.Session(
    model,
    torch.zeros(1, *splits.shape),
    method="group-fisher",
    budget=sct.Budget(macs=0.5),
    steps_per_epoch=len(loader),
    epochs=EPOCHS,
)
trainer = pl.Trainer(
    max_epochs=EPOCHS,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    gradient_clip_val=1.0,
    callbacks=[SessionCallback(session)],
)
trainer.fit(Digits(model), loader)
print(session.plan.summary())
print(f"{session.cost.macs:,} MACs, {session.cost.params:,} parameters")
