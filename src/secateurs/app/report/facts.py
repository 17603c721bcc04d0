"""Parts of a report, computed from a graph and from measurements."""

import secateurs as sct
from secateurs.app.report.figures import Kept, Spread, Timed
from secateurs.deploy import Measurement


def kept_whole(graph: sct.Graph) -> tuple[Kept, ...]:
    """Group the protected parts of a network by reason, in the order of the first tensor of each."""
    reasons: dict[str, list[str]] = {}
    for entry in graph.protected:
        tensors = reasons.setdefault(entry.reason[:1].upper() + entry.reason[1:], [])
        tensors.append(f"{entry.tensor} (dimension {entry.dim})")
    return tuple(Kept(reason, tuple(tensors)) for reason, tensors in reasons.items())


def timed(device: sct.Device, before: Measurement, after: Measurement) -> Timed:
    """Return the latency entry of two networks that were measured alternately, the first as reference."""
    if after.ratio is None:
        raise ValueError("the second measurement has no ratio to the first; measure both with Device.compare")
    ratio = after.ratio
    return Timed(
        device.name, device.runtime, device.threads, Spread.of(before), Spread.of(after), ratio.value, ratio.error
    )
