"""Wrap an exported file as an `nn.Module`, so that it can be evaluated like the original network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from secateurs.deploy.runtimes import check_there
from secateurs.errors import DeviceError


@final
class Loaded(nn.Module):
    """Module that runs an exported file with one output, on the CPU.

    path: of an .onnx, .xml (OpenVINO), .pte (ExecuTorch) or .pt2 (torch.export) file. threads: CPU threads. Raises
    DeviceError if the runtime is not installed or cannot read the file.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        """Open the file in its own runtime on the CPU."""
        super().__init__()
        self._path = Path(path)
        openers = {".onnx": self._onnx, ".xml": self._openvino, ".pte": self._executorch, ".pt2": self._torch}
        if self._path.suffix not in openers:
            raise DeviceError(f"{path} is no exported model. Name a file that ends in {', '.join(openers)}.")
        self._run = openers[self._path.suffix](threads)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the file's first output."""
        return self._run(*inputs)

    def _onnx(self, threads: int) -> Any:
        from secateurs.deploy.onnx_run import open_session

        session = open_session(str(self._path), threads)
        names = [i.name for i in session.get_inputs()]

        def run(*inputs: Tensor) -> Tensor:
            given = {name: x.detach().cpu().numpy() for name, x in zip(names, inputs, strict=True)}
            return torch.from_numpy(session.run(None, given)[0])

        return run

    def _openvino(self, threads: int) -> Any:
        import openvino as ov  # pyright: ignore[reportMissingImports] (an extra of its own)

        compiled = ov.Core().compile_model(str(self._path), "CPU", {"INFERENCE_NUM_THREADS": threads})
        return lambda *inputs: torch.from_numpy(compiled([x.detach().cpu().numpy() for x in inputs])[0].copy())

    def _executorch(self, threads: int) -> Any:
        check_there("executorch")
        from secateurs.deploy.executorch_run import Method

        method = Method(str(self._path), threads)
        return lambda *inputs: method([x.detach().cpu().contiguous() for x in inputs])[0]

    def _torch(self, _: int) -> Any:
        return torch.export.load(self._path).module()
