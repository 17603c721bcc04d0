"""Pruned models on the Hugging Face Hub: safetensors, the plan and a model card, without code."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from types import ModuleType

from torch import nn

from secateurs.errors import InputError, StoreError
from secateurs.store.model_card import model_card
from secateurs.store.save import checked_files, load

FILES = ("plan.json", "model.safetensors")


def push(
    folder: str | PathLike[str],
    repo: str,
    *,
    license_id: str,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a saved model with a card made from its report; return the address of the commit.

    One commit contains the weights, the plan and the card; other files of the folder are not uploaded. folder: of
    `save` or of a run. repo: "user/name"; it is created if missing, private by default. license_id: a licence
    identifier of the Hub ("apache-2.0", "cc-by-nc-4.0", "other"). token: by default that of `hf auth login`. endpoint:
    another Hub.

    Raises InputError for an invalid name or licence, StoreError if the folder is damaged or the Hub refuses; nothing is
    uploaded then.
    """
    content = checked_files(folder)
    card = model_card(Path(folder), repo, license_id=license_id)
    hub = _hub()
    with _told(hub, repo):
        api = hub.HfApi(endpoint=endpoint, token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        files = {**content, "README.md": card.encode()}
        adds = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
        done = api.create_commit(repo, adds, commit_message="A pruned model, saved by secateurs")
    return str(done.commit_url)


def pull(
    repo: str,
    model: nn.Module,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> nn.Module:
    """Download a saved model and apply its plan to `model`, the network before pruning; return it as `load` does.

    Only the plan and the weights of one commit are downloaded, and checked as by `load`. repo: "user/name". revision: a
    branch, a tag or a commit; name a commit if others can write to the repository. token, endpoint: as for `push`.

    Raises InputError for an invalid name, StoreError if the Hub refuses or lacks the files, and what `load` raises; the
    model is unchanged then.
    """
    hub = _hub()
    with _told(hub, repo):
        folder = hub.snapshot_download(
            repo, revision=revision, allow_patterns=list(FILES), token=token, endpoint=endpoint
        )
    return load(model, folder)


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        message = "The Hub needs the package huggingface_hub. python -m pip install 'secateurs[hub]'"
        raise InputError(message) from error
    return huggingface_hub


@contextmanager
def _told(hub: ModuleType, repo: str) -> Generator[None]:
    """Turn errors of the Hub into errors of this library, with the original chained."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except HFValidationError as error:
        message = f"{repo!r} is no name of a repository ({error}). Give one as OWNER/NAME."
        raise InputError(message) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()
        message = (
            f"The Hub did not serve {repo}: {reason[0] if reason else type(error).__name__}. Nothing was changed here. "
            "Check the name, the network and the token (hf auth login)."
        )
        raise StoreError(message) from error
