"""Training and fine-tuning: Lightning's trainer with a standard recipe, deterministic and resumable."""

from secateurs.training.fit import Fitted, Place, evaluate, fit, fit_session
from secateurs.training.loaders import Loaders
from secateurs.training.module import Classifier, Optimisation
from secateurs.training.progress import Epoch

__all__ = ["Classifier", "Epoch", "Fitted", "Loaders", "Optimisation", "Place", "evaluate", "fit", "fit_session"]
