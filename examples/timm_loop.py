"""Pruning inside a loop as timm's train script has it: its optimizer, scheduler, gradient scaler and averaged model.

python examples/timm_loop.py
"""

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, NativeScaler
from torch.nn import functional as F
from torch.utils.data import DataLoader

import secateurs as sct
from secateurs.app.data import load
from secateurs.app.data.images import as_batch
from secateurs.app.models import resnet20

EPOCHS = 12

torch.manual_seed(0)
splits = load("digits")
loader = DataLoader(splits.train, batch_size=64, shuffle=True, drop_last=True, collate_fn=as_batch)
model = resnet20(in_channels=1, num_classes=10)
optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, weight_decay=5e-4, momentum=0.9)
scheduler = CosineLRScheduler(optimizer, t_initial=EPOCHS)
scaler, ema = NativeScaler(device="cpu"), ModelEmaV3(model, decay=0.95)

session = sct.Session(
    model,
    torch.zeros(1, *splits.shape),
    method="inc-reg",
    budget=sct.Budget(macs=0.5),
    steps_per_epoch=len(loader),
    epochs=EPOCHS,
)
session.attach(optimizer, ema=ema.module)

for epoch in range(EPOCHS):
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
        ema.update(model)
    scheduler.step(epoch + 1)

small = session.finish()
sct.recalibrate(ema.module, loader)
ema.module.eval()
test = DataLoader(splits.test, batch_size=512, collate_fn=as_batch)
right = sum(int((ema.module(images).argmax(1) == labels).sum()) for images, labels in test)
print(f"{session.cost.macs:,} MACs; test accuracy of the averaged, pruned model {right / len(splits.test):.3f}")
