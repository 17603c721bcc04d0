"""Training and fine-tuning: Lightning's trainer with a standard recipe, deterministic and resumable."""

from secateurs.app.training.fit import Fitted, Place, fit, fit_session
from secateurs.app.training.loaders import Loaders
from secateurs.app.training.module import Classifier
from secateurs.app.training.optimisation import Optimisation, Stepping
from secateurs.app.training.progress import Epoch
from secateurs.app.training.score import Score, evaluate, score
from secateurs.app.training.tasks import METRICS, check_shape, loss_of

__all__ = [
    "METRICS",
    "Classifier",
    "Epoch",
    "Fitted",
    "Loaders",
    "Optimisation",
    "Place",
    "Score",
    "Stepping",
    "check_shape",
    "evaluate",
    "fit",
    "fit_session",
    "loss_of",
    "score",
]
