"""Distillation: train the pruned network to match the dense one's outputs and, optionally, features."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateurs.errors import EvidenceError, InputError, check_choice, check_seed
from secateurs.recover.features import Watch, features_apart
from secateurs.recover.recovery import Pair
from secateurs.running.untouched import untouched

Match = Literal["kl", "dist", "squares"]
"""The distance between the outputs of student and teacher."""


@dataclass(frozen=True)
class Distil:
    """Learn from the dense network's outputs: a loss for any loop, and a step of recovery that needs no labels.

        loss = weight · match(student, teacher) + (1 - weight) · cross entropy(student, labels)

    match, the distance between student outputs s and teacher outputs t, at temperature T:

    - "kl": T² KL(softmax(t / T) ‖ softmax(s / T)) (Hinton, Vinyals and Dean 2015, arXiv:1503.02531);
    - "dist": T² (1 - ρ) between the probabilities of each image, plus the same between those of each class over the
      batch; ρ is Pearson's correlation (Huang et al., DIST, NeurIPS 2022, arXiv:2205.10536);
    - "squares": mean squared difference, for embeddings and any outputs that are not logits.

    In a training loop: `loss = Distil().loss(dense)`, then `loss(outputs, labels, images)` instead of your loss. The
    teacher runs in eval mode without gradients, under the student's autocast: one more forward pass a step.

    As a step (`recover(..., steps=(Reconstruct(), Distil()))`) it trains on the recovery's images only:
    `epochs` of SGD with Nesterov momentum 0.9, cosine decay from `lr`, batches shuffled by `seed`, gradients clipped to
    norm 1, and BatchNorm in eval mode, so that its statistics stay.

    temperature: T, above 0. weight: in (0, 1]; the rest of the loss is cross entropy. features: names of modules, such
    as the last of each stage, whose attention maps are compared too (see `features_apart`), times `feature_weight`; a
    loop then passes the student: `Distil(...).loss(dense, student)`. Raises InputError for values out of range.

    >>> Distil("squares").compare(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])).item()  # (0² + 2²) / 2
    2.0
    """

    match: Match = "kl"
    _: KW_ONLY
    temperature: float = 4.0
    weight: float = 1.0
    epochs: int = 10
    lr: float = 0.01
    seed: int = 0
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_seed(self.seed)
        check_choice(self, match=Match)
        wrong = not 0 < self.temperature < float("inf") or not 0 < self.weight <= 1 or not self.feature_weight >= 0
        if wrong or self.epochs < 0 or not 0 < self.lr < float("inf"):
            message = (
                f"{self} cannot teach. Give a temperature and a learning rate above 0, a weight in (0, 1], epochs "
                "and a feature_weight of at least 0."
            )
            raise InputError(message)

    def loss(self, teacher: nn.Module, student: nn.Module | None = None) -> DistilLoss:
        """Return the loss against this teacher, which is not changed; `student` is needed to compare features."""
        return DistilLoss(self, teacher, student=student)

    def recover(self, pair: Pair) -> None:
        """Train `pair.small` on the images, without labels."""
        with closing(DistilLoss(self, pair.dense, student=pair.small)) as criterion:
            self._train(pair, criterion)

    def _train(self, pair: Pair, criterion: DistilLoss) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        steps = self.epochs * len(pair.batches)
        with _learnt(pair.small) as parameters:
            if not parameters or not steps:
                return
            optimizer = torch.optim.SGD(parameters, self.lr, momentum=0.9, nesterov=True)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for epoch in range(self.epochs):
                total = torch.zeros(())
                for number in torch.randperm(len(pair.batches), generator=generator).tolist():
                    batch = pair.batches[number]
                    optimizer.zero_grad()
                    wanted = criterion.teach(*batch.args, **batch.kwargs)
                    value = self.compare(pair.small(*batch.args, **batch.kwargs), wanted) + criterion.inside()
                    value.backward()
                    nn.utils.clip_grad_norm_(parameters, 1.0)
                    optimizer.step()
                    schedule.step()
                    total = total + value.detach().cpu()
                pair.say(f"distil {epoch + 1}/{self.epochs}: loss {total.item() / len(pair.batches):.4g}")

    def compare(self, outputs: Any, wanted: Any) -> Tensor:
        """Return the distance between the student's outputs and the `wanted` ones of the teacher, a scalar.

        Raises EvidenceError for outputs of different shapes, or without logits.

        >>> Distil().compare(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 3.0]])).item()
        0.0
        """
        student, teacher = logits_of(outputs), logits_of(wanted)
        if student.shape != teacher.shape:
            message = (
                f"the student puts out {tuple(student.shape)} and the teacher {tuple(teacher.shape)}. They are "
                "compared entry by entry. Use the dense network that the student was cut from."
            )
            raise EvidenceError(message)
        s, t = student.float(), teacher.detach().float()
        if self.match == "squares":
            return F.mse_loss(s, t)
        s, t = (v.flatten(2).transpose(1, 2).flatten(0, 1) if v.dim() > 2 else v for v in (s, t))
        heat = self.temperature
        if self.match == "kl":
            return heat**2 * F.kl_div(
                (s / heat).log_softmax(1), (t / heat).log_softmax(1), reduction="batchmean", log_target=True
            )
        p, q = (s / heat).softmax(1), (t / heat).softmax(1)
        return heat**2 * (_unlike(p, q) + _unlike(p.t(), q.t()))


class DistilLoss:
    """The loss of a training step, called as `loss(outputs, targets, inputs)`; inputs are those of the model.

    settings: the `Distil` that made it. teacher: the dense network. student: needed if features are compared.
    """

    def __init__(self, settings: Distil, teacher: nn.Module, *, student: nn.Module | None = None) -> None:
        """Hook the modules of `features`; InputError without a student, or for a name that a network lacks."""
        self.settings, self.teacher = settings, teacher
        self._seen: tuple[Watch, Watch] | None = None
        self._taught: list[Tensor] = []
        if settings.features:
            if student is None:
                message = (
                    f"{settings} compares features, and no student is named. Its modules have to be watched. "
                    "Write Distil(...).loss(dense, student)."
                )
                raise InputError(message)
            self._seen = Watch(student, settings.features), Watch(teacher, settings.features)

    def __call__(self, outputs: Any, targets: Any, inputs: Any) -> Tensor:
        """Return the loss of one batch, right after the student's forward pass on it."""
        args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (inputs, {})
        args = args if isinstance(args, tuple) else (args,)
        value = self.settings.weight * self.settings.compare(outputs, self.teach(*args, **kwargs)) + self.inside()
        if self.settings.weight == 1:
            return value
        return value + (1 - self.settings.weight) * F.cross_entropy(logits_of(outputs), targets)

    def teach(self, *args: Any, **kwargs: Any) -> Any:
        """Return the teacher's outputs, in eval mode and without gradients."""
        with untouched(self.teacher), torch.no_grad():
            found = self.teacher(*args, **kwargs)
        if self._seen:
            self._taught = self._seen[1].taken(self.settings.features)
        return found

    def inside(self) -> Tensor | float:
        """Weighted distance between the features of the last batch; 0 if none are compared."""
        if not self._seen:
            return 0.0
        mine = self._seen[0].taken(self.settings.features)
        return self.settings.feature_weight * features_apart(mine, self._taught)

    def close(self) -> None:
        """Remove the hooks from both networks."""
        for watch in self._seen or ():
            watch.close()


def logits_of(outputs: Any) -> Tensor:
    """Return the tensor to compare: the output itself, its `logits`, or its first entry (the main head)."""
    if isinstance(outputs, Tensor):
        return outputs
    found = getattr(outputs, "logits", None)
    if found is None and isinstance(outputs, Mapping):
        found = outputs.get("logits")
    if found is None and isinstance(outputs, tuple | list) and outputs:
        found = outputs[0]
    if not isinstance(found, Tensor):
        message = (
            f"the network returned {type(outputs).__name__}, in which no logits are found. A tensor, an object with "
            "`.logits`, or a tuple that begins with them can be compared. Wrap the networks so that they return that."
        )
        raise EvidenceError(message)
    return found


def _unlike(p: Tensor, q: Tensor) -> Tensor:
    """1 - Pearson's correlation of the rows, on average."""
    return 1 - F.cosine_similarity(p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True), dim=1, eps=1e-8).mean()


@contextmanager
def _learnt(model: nn.Module) -> Generator[list[nn.Parameter]]:
    """Yield the trainable parameters, in eval mode; restore gradients and modes afterwards."""
    grads = {p: p.grad for p in model.parameters()}
    with untouched(model), torch.enable_grad():
        try:
            yield [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
        finally:
            for p, grad in grads.items():
                p.grad = grad
