"""The training-time side: a Session drives a method inside any loop, by schedules, penalties, taps and surgery."""

from secateurs.session.best import Best
from secateurs.session.checks import SessionError
from secateurs.session.driver import Driver, TrainingMethod
from secateurs.session.history import Event, History
from secateurs.session.importance import EarlyBird
from secateurs.session.rounds import EqualRounds, ExplicitRounds, ShrinkingRounds
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
from secateurs.session.targets import ScheduleError

__all__ = [
    "Asymptotic",
    "Best",
    "Clock",
    "Constant",
    "Cosine",
    "CosineDecay",
    "Cubic",
    "Driver",
    "EarlyBird",
    "EqualRounds",
    "Event",
    "ExplicitRounds",
    "ExponentialDecay",
    "History",
    "Linear",
    "LinearDecay",
    "ScheduleError",
    "Session",
    "SessionError",
    "ShrinkingRounds",
    "ToZero",
    "TrainingMethod",
]
