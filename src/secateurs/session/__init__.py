"""The training-time side: a Session drives a method inside any loop, by schedules, penalties, taps and surgery."""

from secateurs.session.best import Best
from secateurs.session.history import Event, History
from secateurs.session.method import Driver, TrainingMethod
from secateurs.session.schedule import (
    Asymptotic,
    Clock,
    Constant,
    Cosine,
    CosineDecay,
    Cubic,
    ExponentialDecay,
    Linear,
    LinearDecay,
    ToZero,
)
from secateurs.session.session import Session

__all__ = [
    "Asymptotic",
    "Best",
    "Clock",
    "Constant",
    "Cosine",
    "CosineDecay",
    "Cubic",
    "Driver",
    "Event",
    "ExponentialDecay",
    "History",
    "Linear",
    "LinearDecay",
    "Session",
    "ToZero",
    "TrainingMethod",
]
