"""Training and fine-tuning: Lightning's trainer with a standard recipe, deterministic and resumable."""

from secateurs.app.training.fit import Fitted, Place, evaluate, fit, fit_session
from secateurs.app.training.loaders import Loaders
from secateurs.app.training.module import Classifier, Optimisation
from secateurs.app.training.progress import Epoch

__all__ = ["Classifier", "Epoch", "Fitted", "Loaders", "Optimisation", "Place", "evaluate", "fit", "fit_session"]
