"""ONNX Runtime: open sessions with a number of threads, and read its profile of the nodes."""

from __future__ import annotations

import ast
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from secateurs.errors import DeviceError


def open_session(content: bytes | str, threads: int, *, profile: str = "") -> Any:
    """Open a model (bytes or a path) on the CPU. Raises DeviceError if ONNX Runtime cannot run it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as cause:
        reason = " ".join(str(cause).split())
        raise DeviceError(f"ONNX Runtime {ort.__version__} cannot run the model: {reason}") from cause


def module_names(model: Any) -> dict[str, str]:
    """Return name of a node, or of its output -> path of its module, from the metadata of torch's exporter."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        written = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(written.get("pkg.torch.onnx.name_scopes", "[]"))
        # the last scope is the operator itself
        if len(scopes) > 1 and scopes[-2]:
            found |= dict.fromkeys([node.name, *node.output], scopes[-2])
    return found


def named(nodes: dict[str, tuple[str, float]], modules: dict[str, str]) -> dict[str, tuple[str, float]]:
    """Prefix the names of nodes by the path of their module, where it is known.

    >>> named({"relu_1_nchwc": ("Conv", 0.1), "ReorderOutput": ("ReorderOutput", 0.2)}, {"relu_1": "layer1.0.relu"})
    {'layer1.0.relu (relu_1_nchwc)': ('Conv', 0.1), 'ReorderOutput': ('ReorderOutput', 0.2)}
    """
    paths = {node: modules.get(node.removesuffix("_nchwc")) for node in nodes}
    return {f"{path} ({node})" if (path := paths[node]) else node: found for node, found in nodes.items()}


def profile_nodes(content: bytes | str, threads: int, feed: dict[str, Any], runs: int) -> dict[str, tuple[str, float]]:
    """Return node -> (operator, median seconds), from ONNX Runtime's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(content, threads, profile=str(Path(folder, "profile")))
        for _ in range(runs + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            node = name.removesuffix("_kernel_time")
            times.setdefault(node, []).append(event["dur"] * 1e-6)
            kinds[node] = event["args"].get("op_name", "")
    # the first run allocates
    return {node: (kinds[node], statistics.median(found[1:] or found)) for node, found in times.items()}
