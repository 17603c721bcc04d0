"""Static int8 quantisation of weights and activations, by ONNX Runtime's quantiser on calibration images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from secateurs.errors import DeviceError
from secateurs.running.nested import find_tensors


def quantised(proto: Any, calibration: Iterable[Any]) -> Any:
    """Quantise an ONNX model to QDQ form: signed 8 bits, weights per output channel, ranges from calibration batches.

    calibration yields inputs, or (inputs, targets); of each batch the model's inputs are taken. For a model with a
    fixed batch size, batches are cut to it. Raises DeviceError where there are none.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [i.name for i in proto.graph.input]
    size = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    feeds = _feeds(calibration, names, size)
    first = next(feeds, None)
    if first is None:
        raise DeviceError("int8 needs calibration batches, and there are none. Pass a loader of training images.")

    class Reader(CalibrationDataReader):
        """Batches one by one."""

        def __init__(self) -> None:
            self._rest: Iterator[dict[str, Any]] = _chain(first, feeds)

        def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Return the next batch, or None after the last."""
            return next(self._rest, None)

    import onnx

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the quantiser logs advice through the root logger
    try:
        with tempfile.TemporaryDirectory() as folder:
            whole, ready, done = (str(Path(folder, name)) for name in ("float.onnx", "ready.onnx", "int8.onnx"))
            onnx.save(proto, whole)
            quant_pre_process(whole, ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                done,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
            return onnx.load(done)
    finally:
        root.setLevel(level)


def _chain(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest


def _feeds(calibration: Iterable[Any], names: list[str], size: int) -> Iterator[dict[str, Any]]:
    """Batches under the names of the model's inputs; cut to the model's batch size where that is fixed."""
    for batch in calibration:
        tensors: list[Tensor] = find_tensors(batch)
        if len(tensors) < len(names):
            message = f"a calibration batch has {len(tensors)} tensors, and the model takes {len(names)} inputs"
            raise DeviceError(f"{message} ({', '.join(names)}). Yield the inputs, or (inputs, targets).")
        chosen = tensors[: len(names)]
        step = size or len(chosen[0])
        for start in range(0, len(chosen[0]) - step + 1, step):
            yield {
                name: tensor[start : start + step].detach().cpu().contiguous().numpy()
                for name, tensor in zip(names, chosen, strict=True)
            }
