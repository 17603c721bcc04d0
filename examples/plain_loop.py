"""Pruning inside a plain training loop: one line to attach, one to finish.

python examples/plain_loop.py
"""

import torch
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
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

session = sct.Session(
    model,
    torch.zeros(1, *splits.shape),
    method="greg1",
    budget=sct.Budget(macs=0.5),
    steps_per_epoch=len(loader),
    epochs=EPOCHS,
)
session.attach(optimizer)

for epoch in range(EPOCHS):
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: {session.phase}, {session.cost.macs:,} MACs")

small = session.finish()
print(session.history)
sct.recalibrate(small, loader)
small.eval()
test = DataLoader(splits.test, batch_size=512, collate_fn=as_batch)
right = sum(int((small(images).argmax(1) == labels).sum()) for images, labels in test)
print(f"test accuracy {right / len(splits.test):.3f}")
