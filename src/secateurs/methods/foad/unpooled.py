"""Read the feature maps of a network's last convolution before pooling, as the published code does."""

from __future__ import annotations

from dataclasses import dataclass

from secateurs.graph.groups import Site


@dataclass(frozen=True)
class Unpooled:
    """Inputs of the modules that read the units; for pooled features, the last map that is as large as the first.

    Features are inputs without height and width: those of a linear layer behind a pooling or a flattening.
    """

    def __call__(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Return the sites of the maps."""
        reads = tuple(site for site in sites if site.reads)
        maps = [site for site in sites if site.port == "output" and len(site.shape) > 2]
        if not maps or any(len(site.shape) > 2 for site in reads):
            return reads
        return tuple([site for site in maps if site.positions == maps[0].positions][-1:])
