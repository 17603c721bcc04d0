"""The manifest `plan.json` of a saved model: plan, types, versions, and checksums."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, cast

import torch

from secateurs.errors import DamageError, PlanError, StoreError
from secateurs.surgery.plan import Plan
from secateurs.version import library_version

FORMAT = 1
HEADER = 2**27
"""Bytes that safetensors may need besides the numbers: its header is limited to 100 MB."""


@dataclass(frozen=True)
class Manifest:
    """The contents of `plan.json`.

    plan: from the dense model to this one; dtypes: every tensor -> type; aliases: other name of a tied tensor ->
    the name it is stored under; orders: tensors whose memory order is not the default; states:
    module -> result of its `get_extra_state`; sha256 and size are those of the weights file; modules: module -> class
    and settings, empty in files of versions that did not write them.
    """

    plan: Plan
    dtypes: Mapping[str, str]
    aliases: Mapping[str, str]
    orders: Mapping[str, tuple[int, ...]]
    states: Mapping[str, Any]
    sha256: str
    size: int
    modules: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_bytes(self) -> bytes:
        """Write the manifest, sealed with the hash of its own contents."""
        body: dict[str, Any] = {
            "secateurs": {"format": FORMAT, "version": library_version(), "torch": str(torch.__version__)},
            "weights": {"sha256": self.sha256, "size": self.size},
            "dtypes": dict(self.dtypes),
            "aliases": dict(self.aliases),
            "orders": {name: list(order) for name, order in self.orders.items()},
            "states": dict(self.states),
            "modules": dict(self.modules),
            "plan": json.loads(self.plan.to_json()),
        }
        return json.dumps({**body, "seal": seal(body)}, indent=1).encode()

    def check(self, weights: bytes) -> None:
        """Refuse a weights file with another size or hash."""
        if len(weights) != self.size or hashlib.sha256(weights).hexdigest() != self.sha256:
            fact = f"has {len(weights)} of {self.size} bytes" if len(weights) != self.size else "was changed"
            message = (
                f"the weights file {fact}: it is not the one that was saved with this plan. "
                "Nothing was loaded. Copy the directory again, or save the model again."
            )
            raise DamageError(message)

    def most_bytes(self) -> int:
        """Largest size in bytes of the weights file: its tensors as they are after pruning, and a header."""
        after = self.plan.signature_after()
        return HEADER + sum(prod(shape) * _type(self.dtypes[name]).itemsize for name, shape in after.items())


def read_manifest(content: bytes) -> Manifest:
    """Read `plan.json`; DamageError if it is not a valid manifest, with the reason."""
    try:
        body = cast("dict[str, Any]", json.loads(content))
        wrote = _mapping(body["secateurs"])
        sealed = seal({key: value for key, value in body.items() if key != "seal"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"plan.json was not written by secateurs.save ({error!r}). Nothing was loaded. Check the directory."
        raise DamageError(message) from error
    if wrote.get("format") != FORMAT:
        message = (
            f"plan.json has format {wrote.get('format')!r}, written by secateurs {wrote.get('version')}; "
            f"this is {library_version()}, which reads format {FORMAT}. Install the version that wrote it."
        )
        raise StoreError(message)
    if body.pop("seal", None) != sealed:
        message = "plan.json was changed after it was saved. Nothing was loaded. Take the original, or save again."
        raise DamageError(message)
    return _manifest(body)


def _manifest(body: Mapping[str, Any]) -> Manifest:
    try:
        manifest = Manifest(
            plan=Plan.from_json(json.dumps(body["plan"])),
            dtypes=_mapping(body["dtypes"]),
            aliases=_mapping(body["aliases"]),
            orders={name: tuple(order) for name, order in _mapping(body["orders"]).items()},
            states=_mapping(body["states"]),
            sha256=body["weights"]["sha256"],
            size=body["weights"]["size"],
            modules={path: _text(words) for path, words in _mapping(body.get("modules", {})).items()},
        )
        _check(manifest)
    except (KeyError, TypeError, AttributeError, ValueError, PlanError) as error:
        message = f"plan.json is damaged: {error!r}. Nothing was loaded. Take the original, or save again."
        raise DamageError(message) from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Refuse entries that do not match the tensors of the plan."""
    signature = manifest.plan.signature
    if manifest.dtypes.keys() != signature.keys():
        raise ValueError("its types are not those of its tensors")
    for kind in manifest.dtypes.values():
        _type(kind)
    for other, name in manifest.aliases.items():
        if other not in signature or name not in signature or name in manifest.aliases:
            raise ValueError(f"{other!r} and {name!r} are not two names of one tensor")
    for name, order in manifest.orders.items():
        if list(map(repr, sorted(order))) != list(map(repr, range(len(signature[name])))):
            raise ValueError(f"{order} is no order of the dimensions of {name!r}")
    if not isinstance(manifest.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", manifest.sha256, re.ASCII):
        raise ValueError("the hash of the weights is none")
    if type(manifest.size) is not int or manifest.size > manifest.most_bytes():
        raise ValueError(f"{str(manifest.size)[:40]} bytes are not the size of its weights")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} where names and values belong")
    return cast("dict[str, Any]", value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text belongs")
    return value


def _type(name: object) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{name!r} is no type of numbers")
    return found


def seal(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON document, independent of the order of its keys.

    >>> seal({"a": 1, "b": 2}) == seal({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
