"""Hugging Face transformers: save a pruned model with its plan, load it, and prune inside the Trainer.

`save_pretrained` and `push_to_hub` are those of transformers; they write config.json (with the dense model's sizes) and
the pruned weights, and `pruning_plan.json` comes beside them. `from_pretrained` builds the model's own class from the
config, replays the plan, and lets transformers read the weights, with all of its options.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from secateurs.errors import InputError, StoreError
from secateurs.integrations.packages import needed
from secateurs.integrations.plan_file import PLAN_FILE, check_left, read_plan, replay, without_graph, write_plan
from secateurs.session import Session
from secateurs.surgery.plan import Plan

Model = TypeVar("Model", bound=nn.Module)
SESSION_FILE = "pruning_session.pt"
_FETCHING = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "repo_type",
    "revision",
    "subfolder",
    "token",
)


class _SavesPlan:
    """Replacement for a model's `save_pretrained` that also writes the plan."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model = model
        self.plan = plan

    def __call__(self, save_directory: str | PathLike[str], *args: Any, **options: Any) -> None:
        """Save as transformers does, with the plan; with `push_to_hub=True` also to the Hub."""
        check_left(self.plan, self.model)
        kind = cast("Any", type(self.model))
        if options.pop("push_to_hub", False):
            repository = options.pop("repo_id", Path(save_directory).name)
            kind.push_to_hub(self.model, repository, **{k: options.pop(k) for k in _PUSHING if k in options})
        kind.save_pretrained(self.model, save_directory, *args, **options)
        if options.get("is_main_process", True):
            write_plan(self.plan, save_directory)


_PUSHING = ("commit_message", "private", "token", "revision", "create_pr", "tags")


def carry_plan(model: Model, plan: Plan) -> Model:
    """Make a pruned model's own `save_pretrained` and `push_to_hub` write the plan too, and return the model.

    Checkpoints of transformers' Trainer then contain the plan as well. The class and everything else of the model stay.
    Raises StoreError if the model does not have the plan's shapes, InputError if it is no transformers model.
    """
    kind = needed("transformers", extra="huggingface").PreTrainedModel
    if not isinstance(model, kind):
        message = (
            f"a {type(model).__name__} is no transformers model: it has no config that it could be built from. "
            "Save it with secateurs.save(model, plan, directory)."
        )
        raise InputError(message)
    check_left(plan, model)
    model.__dict__["save_pretrained"] = _SavesPlan(model, without_graph(plan))
    return model


def save_pretrained(model: nn.Module, plan: Plan, directory: str | PathLike[str], **options: Any) -> Path:
    """Save a pruned transformers model: config.json, weights and plan; return the folder.

    options are those of transformers' `save_pretrained` (`max_shard_size`, `push_to_hub`, ...). The model keeps its
    plan from then on (`carry_plan`).
    """
    cast("Any", carry_plan(model, plan)).save_pretrained(directory, **options)
    return Path(directory)


def push_to_hub(model: nn.Module, plan: Plan, repo_id: str, **options: Any) -> Any:
    """Push a pruned transformers model and its plan to the Hub; options and the result are those of transformers."""
    return cast("Any", carry_plan(model, plan)).push_to_hub(repo_id, **options)


def from_pretrained(source: str | PathLike[str], *, model_class: Any = None, **options: Any) -> Any:
    """Load a pruned transformers model from a folder or from the Hub.

    The class (that of config.json, unless `model_class` names another one of transformers) is built from the config,
    the plan is replayed on it, and transformers reads the weights; options are those of its `from_pretrained`
    (`dtype`, `device_map`, `revision`, `token`, ...). The model carries its plan.

    Raises StoreError if there is no plan next to the weights, PlanError if the plan is of another model.
    """
    transformers = needed("transformers", extra="huggingface")
    fetching = {name: options[name] for name in _FETCHING if name in options}
    try:
        found = needed("transformers.utils.hub", extra="huggingface").cached_file(source, PLAN_FILE, **fetching)
    except OSError as cause:
        message = (
            f"{source} holds no {PLAN_FILE}: {cause}. Without its plan a pruned model cannot be built. "
            "Save it with secateurs.integrations.huggingface.save_pretrained; a dense model loads with transformers."
        )
        raise StoreError(message) from cause
    plan = read_plan(found)
    kind = model_class or _class_of(transformers, source, {**fetching, **_known(options, "config")})
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        message = (
            f"model_class={kind!r} is no model class of transformers, and an Auto class does not say which. "
            "Pass a class such as ViTForImageClassification, or leave it out: config.json names it."
        )
        raise InputError(message)
    loaded = cast("Any", _cut_class(kind, plan)).from_pretrained(source, **options)
    model, report = loaded if isinstance(loaded, tuple) else (loaded, None)
    model.__class__ = kind
    carry_plan(model, plan)
    return model if report is None else (model, report)


def _known(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def _class_of(transformers: Any, source: str | PathLike[str], options: dict[str, Any]) -> Any:
    """Return the class that config.json names."""
    config = options.pop("config", None) or transformers.AutoConfig.from_pretrained(source, **options)
    names = list(getattr(config, "architectures", None) or ())
    found = getattr(transformers, names[0], None) if names else None
    if found is None:
        message = (
            f"config.json of {source} names {names or 'no architecture'}, which transformers does not have. "
            "Pass model_class=, the class that the model was saved with."
        )
        raise StoreError(message)
    return found


def _cut_class(kind: type[nn.Module], plan: Plan) -> type[nn.Module]:
    """Return a subclass whose new models have the shapes of the plan."""

    def build(self: nn.Module, *args: Any, **options: Any) -> None:
        kind.__init__(self, *args, **options)
        with torch.no_grad():
            replay(plan, self)

    return type(kind.__name__, (kind,), {"__init__": build, "__module__": kind.__module__})


def trainer_callback(session: Session, *, early: bool = False) -> Any:
    """Return a `TrainerCallback` that prunes inside transformers' Trainer: `Trainer(..., callbacks=[callback])`.

    It attaches the session when training begins, and finishes it at the last step, before the last evaluation and
    checkpoint; earlier metrics, of larger networks, no longer count as the best. Each earlier checkpoint contains the
    session's state, for `resume`. early: finish a run that was stopped early.
    """
    base = needed("transformers", extra="huggingface").TrainerCallback

    def on_train_begin(self: Any, args: Any, state: Any, control: Any, optimizer: Any = None, **more: Any) -> None:
        session.attach(optimizer)

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not session.finished and state.global_step >= state.max_steps:
            _finish(session, state, early=early)

    def on_save(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not session.finished and state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            torch.save(session.state_dict(), folder / SESSION_FILE)

    def on_train_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if not session.finished:
            _finish(session, state, early=early)

    events = (on_train_begin, on_step_end, on_save, on_train_end)
    return type("PruningCallback", (base,), {event.__name__: event for event in events})()


def _finish(session: Session, state: Any, *, early: bool) -> None:
    small = session.finish(early=early)
    state.best_metric = state.best_model_checkpoint = state.best_global_step = None
    if isinstance(small, needed("transformers", extra="huggingface").PreTrainedModel):
        carry_plan(small, session.plan)


def resume(session: Session, checkpoint: str | PathLike[str]) -> None:
    """Restore a new session and its model from a checkpoint of `trainer_callback`.

    Call it before `trainer.train(resume_from_checkpoint=checkpoint)`, which then finds the saved shapes.
    Raises StoreError if the checkpoint has no session state.
    """
    file = Path(checkpoint) / SESSION_FILE
    if not file.is_file():
        message = (
            f"{checkpoint} holds no {SESSION_FILE}: it was not written while a session pruned. "
            "Pass a checkpoint-N folder of a run with secateurs.integrations.huggingface.trainer_callback."
        )
        raise StoreError(message)
    session.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
