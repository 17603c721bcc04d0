"""What one training step, one validation step and one test step are."""

from dataclasses import dataclass
from typing import Any, final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from secateurs.errors import InputError
from secateurs.recover import DistilLoss

AUXILIARY = 0.3
"""Weight of an auxiliary head's loss (Szegedy et al., "Going Deeper with Convolutions", 2014, section 5)."""


@final
@dataclass(frozen=True)
class Optimisation:
    """SGD with Nesterov momentum; the rate rises for `warmup` of the steps, then falls, both by a cosine.

    >>> Optimisation(epochs=20, lr=0.1).momentum
    0.9
    """

    epochs: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        if self.epochs < 0:
            raise InputError(f"{self.epochs} epochs cannot be trained; ask for 0 (none) or more")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"a learning rate of {self.lr} trains nothing; choose one above 0, for example 0.1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"a weight decay of {self.weight_decay} is no decay; choose 0 or more, for example 5e-4")


@final
class Classifier(LightningModule):
    """Cross-entropy on a network's logits, and the share of images it names rightly.

    Networks with auxiliary heads in train mode (GoogLeNet, Inception) are trained through all of them.
    """

    def __init__(self, model: nn.Module, optimisation: Optimisation, teacher: DistilLoss | None = None) -> None:
        super().__init__()
        self.model = model
        self.optimisation = optimisation
        self.teacher = teacher  # no module: the dense network is neither trained nor saved

    @override
    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.teacher.to(self.device)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        logits, *auxiliary = _heads(self.model(images))
        loss = F.cross_entropy(logits, labels) if self.teacher is None else self.teacher(logits, labels, images)
        for head in auxiliary:
            loss = loss + AUXILIARY * F.cross_entropy(head, labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._measure("validation", batch)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._measure("test", batch)

    def _measure(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = _heads(self.model(images))[0]
        found = {
            f"{split}/loss": F.cross_entropy(logits, labels),
            f"{split}/accuracy": (logits.argmax(1) == labels).double().mean(),
        }
        self.log_dict(found, on_step=False, on_epoch=True, batch_size=len(labels))

    @override
    def configure_optimizers(self) -> Any:
        settings = self.optimisation
        optimizer = torch.optim.SGD(
            _decayed(self.model, settings.weight_decay), settings.lr, settings.momentum, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            settings.lr,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=settings.warmup,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and the scales and shifts of norms do not."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _heads(output: Any) -> list[Tensor]:
    """The logits, then those of any auxiliary heads."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list) and output and all(isinstance(o, Tensor) for o in output if o is not None):
        # GoogLeNetOutputs and InceptionOutputs put the main head first.
        return [o for o in output if o is not None]
    raise InputError(
        f"the network returned {type(output).__name__}, and training here needs logits [n, classes]; "
        "wrap it in a module whose forward returns the logits"
    )
