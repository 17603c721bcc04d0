"""Lightning module of a detection network with torchvision's interface."""

from importlib.util import find_spec
from typing import Any, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from secateurs.app.training.module import Classifier
from secateurs.app.training.optimisation import Optimisation
from secateurs.errors import InputError
from secateurs.recover import DistilLoss

Target = dict[str, Tensor]


@final
class Detector(Classifier):
    """The sum of a detector's own losses, and COCO's mean average precision (mAP, IoU 0.50 to 0.95).

    The network is called as torchvision's are: with images and targets it returns a dict of losses in train mode, with
    images alone a list of dicts with boxes, scores and labels. It has no loss in eval mode; 1 - mAP is used instead.
    """

    def __init__(
        self, model: nn.Module, optimisation: Optimisation, teacher: DistilLoss | None = None, *, classes: int = 0
    ) -> None:
        super().__init__(model, optimisation, teacher, classes=classes)
        check_installed()
        from torchmetrics.detection import MeanAveragePrecision

        self.meters = nn.ModuleDict({split: MeanAveragePrecision() for split in ("validation", "test")})

    @override
    def training_step(self, batch: Any, index: int) -> Tensor:
        images, targets = batch
        losses = self.model(images, targets)
        if not isinstance(losses, dict) or not losses:
            raise InputError(
                f"the network returned {type(losses).__name__} for images and targets, and detection needs a dict of "
                "losses in train mode, as torchvision's detectors return; name one of those, or wrap yours"
            )
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    @override
    def _measure(self, split: str, batch: Any) -> None:
        images, targets = batch
        meter: Any = self.meters[split]
        meter.update(self.model(images), targets)

    @override
    def on_validation_epoch_end(self) -> None:
        self._conclude("validation")

    @override
    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def _conclude(self, split: str) -> None:
        meter: Any = self.meters[split]
        found = meter.compute()["map"].clamp(min=0)  # -1 where there is no box at all
        meter.reset()
        self.log_dict({f"{split}/loss": 1 - found, f"{split}/accuracy": found})


def check_installed() -> None:
    """Refuse if the package for COCO's metrics is missing."""
    if find_spec("pycocotools") is None:
        raise InputError(
            "mAP is computed by pycocotools, which is not installed; install it: "
            "python -m pip install 'secateurs[detection]'"
        )


def check_detector(model: nn.Module, example: Tensor) -> None:
    """Refuse a network without a detector's outputs, before any work."""
    with torch.no_grad():
        found = model(example)
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and {"boxes", "scores"} <= one.keys() for one in found
    ):
        raise InputError(
            f"the network returned {type(found).__name__}, and detection needs a list of dicts with boxes, scores and "
            "labels; name one of torchvision's detectors, for example torchvision:fcos_resnet50_fpn, or wrap yours"
        )
