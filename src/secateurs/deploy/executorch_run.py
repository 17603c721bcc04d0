"""ExecuTorch: run a program with a number of threads, and read the times of its kernels."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

from torch import Tensor

from secateurs.deploy.executorch_form import library, quiet
from secateurs.errors import DeviceError

TICK = 1e-6
"""XNNPACK's profiler counts whole microseconds, rounded down."""


@final
class _Pool:
    """ExecuTorch's one thread pool in this process. Loaded methods keep a pointer to it, which a resize frees."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._resized = 0

    def sized(self, threads: int) -> int:
        """Give it a number of threads; return how often it was resized."""
        found = library()
        if found._threadpool_get_thread_count() != threads:  # noqa: SLF001 (it has no other way)
            found._unsafe_reset_threadpool(threads)  # noqa: SLF001 (as above)
            self._resized += 1
        return self._resized


POOL = _Pool()


@final
class Method:
    """Method `forward` of a program (bytes, or a path to a .pte file), on a number of threads.

    traced: record the times of kernels. Raises DeviceError if ExecuTorch cannot load or run it.
    """

    def __init__(self, content: bytes | str, threads: int, *, traced: bool = False) -> None:
        """Load the program."""
        self._content, self._threads, self._traced = content, threads, traced
        self._pool = -1
        self.program: Any = None
        self._method: Any = None
        with POOL.lock:
            self._load()

    @property
    def largest(self) -> list[tuple[int, ...]]:
        """Shape of every input, with the largest batch."""
        meta = self._method.metadata
        return [tuple(meta.input_tensor_meta(k).sizes()) for k in range(meta.num_inputs())]

    def __call__(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Run it; the outputs as tensors."""
        with POOL.lock:
            self._load()
            try:
                return self._method.execute(inputs)
            except RuntimeError as cause:
                shapes = ", ".join(str(list(t.shape)) for t in inputs)
                most = ", ".join(str(list(shape)) for shape in self.largest)
                raise DeviceError(
                    f"ExecuTorch cannot run the program on inputs of shape {shapes} ({cause}); it was made for {most}, "
                    "or fewer samples where the batch is free. What it printed names the operator."
                ) from cause

    def _load(self) -> None:
        """Load it, again if the thread pool was resized since."""
        at = POOL.sized(self._threads)
        if at == self._pool:
            return
        with quiet():
            from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]
        # a path keeps its weights in the file until they are packed
        source = Path(self._content) if isinstance(self._content, str) else self._content
        try:
            self.program = Runtime.get().load_program(source, enable_etdump=self._traced)
            self._method = self.program.load_method("forward")
        except (RuntimeError, KeyError) as cause:
            what = self._content if isinstance(self._content, str) else "the program"
            raise DeviceError(
                f"ExecuTorch cannot load {what}: {cause}. It reads .pte files of its own version."
            ) from cause
        self._pool = at


def profile_kernels(
    content: bytes | str, threads: int, inputs: Sequence[Tensor], runs: int
) -> dict[str, tuple[str, float]]:
    """Return kernel -> (kind, median seconds), in order of execution, from the times that ExecuTorch records.

    XNNPACK's times are whole microseconds, and a kernel below one counts half of one.
    """
    with quiet():
        from executorch.devtools import Inspector  # pyright: ignore[reportMissingImports]
    method = Method(content, threads, traced=True)
    with TemporaryDirectory() as folder, POOL.lock, quiet():
        for _ in range(runs + 1):
            method(inputs)
        file = str(Path(folder, "times.etdp"))
        method.program.write_etdump_result_to_file(file, None)
        blocks = Inspector(etdump_path=file).event_blocks
    found: dict[str, tuple[str, float]] = {}
    parts: dict[str, int] = {}
    for event in (event for block in blocks if block.name == "Execute" for event in block.events):
        own = event.name.startswith("native_call_")  # ExecuTorch's own kernel; its operator and delegate calls sum up
        if not own and not event.is_delegated_op:
            continue
        # the first run allocates
        seconds = 1e-3 * statistics.median(event.perf_data.raw[1:])
        parts[event.name] = parts.get(event.name, 0) + 1
        name = event.name.removeprefix("native_call_").removesuffix(".out")
        kind = name if own else name.partition(" (")[0]
        name += f" in part {parts[event.name]}" if parts[event.name] > 1 else ""
        found[name] = (kind, seconds if own else max(seconds, TICK / 2))
    return found
