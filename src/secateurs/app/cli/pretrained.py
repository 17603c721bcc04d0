"""Trained weights from a safetensors file onto a freshly built network, or a sentence that says why not."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateurs.errors import InputError

PICKLES = (b"PK\x03\x04", b"\x80")
"""How files of torch.save and pickle.dump begin."""

MINTED = "num_batches_tracked"
"""Counters that old checkpoints lack and inference does not read."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict stored as safetensors; everything is compared before the model is touched."""
    found = _read(path)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [name for name in expected if name not in found and not name.endswith(MINTED)]
    unexpected = [name for name in found if name not in expected]
    differing = [n for n, t in found.items() if n in expected and tuple(t.shape) != expected[n]]
    if missing or unexpected:
        prefixed = all(name.startswith("module.") for name in found)
        remedy = "strip the 'module.' of DataParallel from its names" if prefixed else "name the model they belong to"
        raise InputError(
            f"{path} is not of this model:{_listing('lacks', missing)}{_listing('has', unexpected)}; {remedy}"
        )
    if differing:
        name = differing[0]
        raise InputError(
            f"{path} is not of this model: {name} has shape {tuple(found[name].shape)} there and {expected[name]} here"
            f"{f', and {len(differing) - 1} more differ' if len(differing) > 1 else ''}; "
            "the number of classes and of input channels comes from the data: check both"
        )
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    for name, tensor in found.items():
        if torch.promote_types(tensor.dtype, types[name]) != types[name] or tensor.is_floating_point() != (
            types[name].is_floating_point
        ):
            raise InputError(
                f"{path} is not of this model: {name} is {tensor.dtype} there and {types[name]} here, and would not "
                "come over unchanged; store the weights in the model's own type"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path} holds values in {name} that are NaN or infinite; take an earlier checkpoint")
    model.load_state_dict(found, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(f"the weights {path}: this {what}; give a safetensors file")
    with path.open("rb") as file:
        begin = file.read(4)
    if begin.startswith(PICKLES):
        raise InputError(
            f"{path} is a pickle: loading one runs whatever code it holds, so it is never opened. Where you trust it, "
            "convert it once: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
        )
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (SafetensorError, OSError) as cause:
        raise InputError(f"{path} is no whole safetensors file ({cause}); store the state dict again") from cause


def _listing(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" it {verb} {', '.join(names[:3])}{more}"
