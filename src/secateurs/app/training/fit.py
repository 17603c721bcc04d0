"""Train a network, with or without a session that prunes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import final

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, LambdaCallback, ModelCheckpoint
from torch import Tensor, nn

from secateurs.app.training.checkpoints import WholeFiles
from secateurs.app.training.loaders import Loaders
from secateurs.app.training.logs import make_logger
from secateurs.app.training.machines import Machines, rank
from secateurs.app.training.module import Classifier
from secateurs.app.training.optimisation import Optimisation
from secateurs.app.training.progress import Bar, Epoch, Lines, Progress
from secateurs.app.training.quiet import quietly
from secateurs.app.training.score import accelerator, deterministic
from secateurs.app.training.seeds import SeedEachEpoch
from secateurs.app.training.session_callback import SessionCallback
from secateurs.app.training.tasks import module_of
from secateurs.errors import DamageError, InputError, SecateursError
from secateurs.recover import DistilLoss
from secateurs.session import Session

LAST = "last.ckpt"


@final
@dataclass(frozen=True)
class Place:
    """Surroundings of a training: folder, device, progress output, machines and logger.

    folder: of the checkpoint and the log. device: "auto", "cpu" or "cuda". bar: draw a progress bar. say: prints lines
    if no bar is drawn. machines: the devices that train together; every process calls `fit`. logger: writes each
    epoch's figures.
    """

    folder: Path
    seed: int = 0
    device: str = "auto"
    bar: bool = False
    say: Callable[[str], None] | None = None
    machines: Machines = Machines()  # noqa: RUF009 (frozen)
    logger: str = "csv"


@final
@dataclass(frozen=True)
class Fitted:
    """Outcome of a training: its best epoch by validation, whose weights the model now has, and all epochs.

    last: the weights after the last epoch.
    """

    best: Epoch
    history: tuple[Epoch, ...]
    last: dict[str, Tensor] = field(default_factory=dict[str, Tensor], repr=False, compare=False)


def fit(
    model: nn.Module,
    data: Loaders,
    optimisation: Optimisation,
    *,
    place: Place,
    resume: bool = False,
    teacher: DistilLoss | None = None,
) -> Fitted:
    """Train the model in place; afterwards it is in eval mode, with the weights of the best epoch by validation.

    teacher: the loss against a dense network, instead of cross-entropy alone.

    With `resume`, an interrupted training continues after its last complete epoch, with the same result.
    """
    decay = optimisation.stepping.ema
    progress = Progress(model, averaged=decay > 0)
    module = module_of(model, optimisation, data.splits, teacher)
    averaging = [EMAWeightAveraging(decay=decay)] if decay else []
    _run(module, data, [progress, *averaging], place=place, resume=resume)
    if progress.best is None:
        raise InputError(
            f"no epoch of {optimisation.epochs} had a finite loss: the training diverged at learning rate "
            f"{optimisation.lr}; lower it"
        )
    last = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(progress.weights)
    model.eval()
    return Fitted(progress.best, progress.history, last)


def fit_session(
    session: Session, data: Loaders, optimisation: Optimisation, *, place: Place, resume: bool = False
) -> tuple[Epoch, ...]:
    """Train the session's model while the session prunes it; afterwards it is in eval mode, with its last weights.

    Averages of weights are not kept, since those from before the cut are of another network.

    With `resume`, an interrupted training continues after its last complete epoch, with the same result.
    """
    progress = Progress(session.model, keeps=False)
    module = module_of(session.model, optimisation, data.splits)
    _run(module, data, [progress, SessionCallback(session)], place=place, resume=resume)
    if not session.finished:  # all epochs had been trained before this start
        session.finish()
    session.model.eval()
    return progress.history


def _run(
    module: Classifier, data: Loaders, callbacks: Sequence[Callback], *, place: Place, resume: bool = False
) -> None:
    """Run all epochs of a training, or the remaining ones."""
    last = place.folder / LAST
    seed_everything(place.seed, verbose=False)
    module.model.train()
    if module.optimisation.stepping.channels_last:
        module.model.to(memory_format=torch.channels_last)
    with quietly():
        started = Event()
        told = LambdaCallback(on_train_start=lambda *_: started.set())
        every = [*callbacks, SeedEachEpoch(place.seed, rank()), told]
        trainer = _trainer(place, every, module.optimisation)
        checkpoint = str(last) if resume and last.is_file() else None
        try:
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        except SystemExit as stop:  # how Lightning passes Ctrl-C on
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from stop
            raise
        except SecateursError:
            raise
        except Exception as cause:
            if checkpoint is None or started.is_set():
                raise
            message = (
                f"the checkpoint {last} does not fit this run ({type(cause).__name__}: {str(cause)[:200]}). "
                "Remove it to train this stage anew, or put the original back"
            )
            raise DamageError(message) from cause
    if module.optimisation.stepping.channels_last:
        module.model.to(memory_format=torch.contiguous_format)


def check_precision(precision: str, device: str) -> None:
    """Refuse float16 if gradients cannot be scaled."""
    if precision == "16-mixed" and accelerator(device) == "cpu":
        raise InputError("float16 (16-mixed) trains on CUDA devices only; on a CPU take bf16-mixed or 32-true")


def _trainer(place: Place, callbacks: list[Callback], optimisation: Optimisation) -> Trainer:
    stepping = optimisation.stepping
    check_precision(stepping.precision, place.device)
    every_epoch = ModelCheckpoint(
        dirpath=place.folder.absolute(),
        filename=Path(LAST).stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    shown: list[Callback] = [Bar()] if place.bar else [Lines(place.say)] if place.say else []
    return Trainer(
        max_epochs=optimisation.epochs,
        precision=stepping.precision,
        accumulate_grad_batches=stepping.accumulate,
        gradient_clip_val=stepping.clip,
        accelerator=accelerator(place.device),
        **place.machines.trainer(),
        deterministic=deterministic(place.device),
        logger=make_logger(place.logger, place.folder, place.folder.name),
        callbacks=[*callbacks, *shown, every_epoch],
        plugins=[WholeFiles()],
        enable_progress_bar=place.bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )
