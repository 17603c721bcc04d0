"""Small networks on which the laws of surgery are tried."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tied(nn.Module):
    """Two names for one weight, and a map that is flattened into the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.left = nn.Conv2d(6, 6, 3, padding=1)
        self.right = nn.Conv2d(6, 6, 3, padding=1)
        self.right.weight = self.left.weight
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((torch.relu(self.left(x)) + self.right(x)).flatten(1))


class Coupled(nn.Module):
    """A residual stream with two writers and three readers, depthwise, grouped and gated, and a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 12, 1)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 8, 1)
        self.mix = nn.Conv2d(8, 12, 1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.merge = nn.Conv2d(20, 6, 1)
        self.head = nn.Linear(6 * 4, 5)
        self.side = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.depth(F.relu(self.expand(x))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project(y * gate)
        z = F.relu(self.grouped(F.relu(self.mix(x))))
        out = F.max_pool2d(F.relu(self.merge(torch.cat([x, z], 1))), 2)
        return {"logits": self.head(out.flatten(1)), "more": (self.side(x.mean((2, 3))),)}


def made(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A network with weights of its seed, and norms that have seen something."""
    torch.manual_seed(seed)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


def images(count: int = 2) -> Tensor:
    """Inputs of both networks."""
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
