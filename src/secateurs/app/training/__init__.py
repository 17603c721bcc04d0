"""Training and fine-tuning: Lightning's trainer with a standard recipe, deterministic and resumable."""

from secateurs.app.training.fit import Fitted, Place, fit, fit_session
from secateurs.app.training.loaders import Loaders
from secateurs.app.training.module import Classifier
from secateurs.app.training.optimisation import Optimisation, Stepping
from secateurs.app.training.progress import Epoch
from secateurs.app.training.score import Score, evaluate, score

__all__ = [
    "Classifier",
    "Epoch",
    "Fitted",
    "Loaders",
    "Optimisation",
    "Place",
    "Score",
    "Stepping",
    "evaluate",
    "fit",
    "fit_session",
    "score",
]
