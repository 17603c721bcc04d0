"""A small network, small data and a plain loop, for the laws of sessions."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateurs as sct
from secateurs import registry

PER_EPOCH, EPOCHS = 4, 10
STEPS = PER_EPOCH * EPOCHS
X = torch.zeros(1, 1, 6, 6)
HALF = sct.Budget(macs=0.5)


class Pupil(nn.Module):
    """A stem, a residual block, a strided convolution and a classifier: three groups, one of them coupled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(8, 10, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(10)
        self.second = nn.Conv2d(10, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 12, 3, stride=2)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))
        return self.head(F.relu(self.down(x)).mean((2, 3)))


def pupil(seed: int = 0) -> Pupil:
    torch.manual_seed(seed)
    return Pupil()


def lessons(count: int = STEPS, size: int = 12, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Batches in which the class is where the bright spot is."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        y = torch.randint(0, 3, (size,), generator=generator)
        x = torch.randn(size, 1, 6, 6, generator=generator) * 0.5
        for i, label in enumerate(y.tolist()):
            x[i, 0, 2 * label : 2 * label + 2] += 1.5
        found.append((x, y))
    return found


LESSONS = lessons()


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range | int = STEPS) -> None:
    """The plainest loop; nothing in it knows of pruning."""
    dtype = next(model.parameters()).dtype
    model.train()
    for step in range(steps) if isinstance(steps, int) else steps:
        x, y = LESSONS[step % len(LESSONS)]
        optimizer.zero_grad()
        F.cross_entropy(model(x.to(dtype)), y).backward()
        optimizer.step()


SMALL: dict[str, dict[str, int]] = {
    "OrthoReg": {"samples": 24},
    "AdaptivePruning": {"batches": 2, "probe_samples": 8},
    "Gradual": {"rounds": 3},
}
"""Settings that keep a method cheap on the small network; a method that is not here runs with its paper's."""

METHODS = {
    type(method).__name__: replace(method, **SMALL.get(type(method).__name__, {})).fitted(PER_EPOCH, EPOCHS)
    for method in map(registry.make, registry.names("training"))
}
"""Every training method of the registry: a new one is tested without being listed here."""


def session(model: nn.Module, method: object, budget: sct.Budget | None = HALF, **options: object) -> sct.Session:
    """A session on the small network, with the run's usual length."""
    dtype = next(model.parameters()).dtype
    data = [(x.to(dtype), y) for x, y in LESSONS]
    given = {"steps_per_epoch": PER_EPOCH, "epochs": EPOCHS, "data": data, **options}
    return sct.Session(model, X.to(dtype), method=method, budget=budget, **given)


def run(method: object, budget: sct.Budget | None = HALF, *, dtype: torch.dtype = torch.float32, **options: object):
    """Train the small network from its seed with a method; the session after its last step."""
    model = pupil().to(dtype)
    started = session(model, method, budget, **options)
    optimizer = sgd(model)
    started.attach(optimizer)
    train(model, optimizer)
    return started
