"""Loss, module and metric of each task; the data set says which task it is."""

import torch
from torch import Tensor, nn

from secateurs.app.data.splits import Splits
from secateurs.app.training.detector import Detector, check_detector, check_installed
from secateurs.app.training.module import Classifier
from secateurs.app.training.optimisation import Optimisation
from secateurs.app.training.segmenter import Segmenter, at_pixels, pixel_heads, pixel_loss
from secateurs.errors import InputError
from secateurs.recover import DistilLoss
from secateurs.types import Loss

MODULES: dict[str, type[Classifier]] = {"segmentation": Segmenter, "detection": Detector}
METRICS = {"classification": "accuracy", "segmentation": "mIoU", "detection": "mAP", "none": ""}
"""Task -> the name of its metric."""


def loss_of(splits: Splits) -> Loss | None:
    """Return the loss of a data set; None is the library's default, cross-entropy."""
    return pixel_loss if splits.task == "segmentation" else None


def module_of(
    model: nn.Module, optimisation: Optimisation, splits: Splits | None, teacher: DistilLoss | None = None
) -> Classifier:
    """Return the Lightning module of a network for a data set; by default, a classifier."""
    kind = Classifier if splits is None else MODULES.get(splits.task, Classifier)
    return kind(model, optimisation, teacher, classes=0 if splits is None else len(splits.classes))


def check_shape(model: nn.Module, example: Tensor, splits: Splits) -> None:
    """Refuse a network whose outputs do not fit the task, before any work."""
    if splits.task == "segmentation":
        with torch.no_grad():
            logits = at_pixels(pixel_heads(model(example))[0], example)
        if logits.shape[1] < len(splits.classes):
            raise InputError(
                f"the network tells {logits.shape[1]} classes of pixels apart and the masks hold "
                f"{len(splits.classes)}; build it with num_classes"
            )
    if splits.task == "detection":
        check_installed()
        check_detector(model, example)
