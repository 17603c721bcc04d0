"""Hooks on the modules that a group's units pass through, which update accumulators with activations or gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from secateurs.errors import EvidenceError
from secateurs.evidence.gates import batch_dim_of, by_entry, by_place, by_unit, gate_gradient
from secateurs.evidence.kinds import Accumulator, Activations, GateGradients
from secateurs.graph.groups import Group, Site
from secateurs.running.hooks import Port, hooked, tap


class Sited(Protocol):
    """The attributes of a graph that streams read."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The prunable groups."""
        ...

    def sites(self, group: str, /) -> tuple[Site, ...]:
        """Return the module inputs and outputs that a group's units pass through."""
        ...


@dataclass(eq=False)
class Stream:
    """One need of one group: its sites, its accumulator, and the gate gradients of the current batch."""

    need: Activations[Any] | GateGradients[Any]
    group: Group
    sites: tuple[Site, ...]
    accumulator: Accumulator[Any]
    z: Tensor | None = None

    def add(self, z: Tensor) -> None:
        """Add the contribution of one site to the batch's gate gradient [n, units]."""
        self.z = z if self.z is None else self.z + z

    def close(self, samples: int, device: torch.device) -> None:
        """End a batch: pass the gate gradients to the accumulator; zero if the loss does not depend on the sites."""
        if isinstance(self.need, GateGradients):
            z = torch.zeros(samples, self.group.units, device=device) if self.z is None else self.z
            self.accumulator.update(z)
            self.z = None


@dataclass(eq=False)
class Streams:
    """All streams of a pass, their hooks, and the tensors that gradients are computed for."""

    streams: tuple[Stream, ...]
    batch_dims: dict[Port, int | None] = field(default_factory=dict[Port, int | None])
    anchors: list[Tensor] = field(default_factory=list[Tensor])

    @property
    def ports(self) -> dict[Port, list[tuple[Stream, Site]]]:
        """The streams of each module input or output."""
        found: dict[Port, list[tuple[Stream, Site]]] = defaultdict(list)
        for stream in self.streams:
            for site in stream.sites:
                found[site.module, site.port].append((stream, site))
        return found

    @property
    def folded(self) -> bool:
        """True if some site has no sample dimension, so that samples must be run one by one."""
        return None in self.batch_dims.values()

    def close(self, samples: int, device: torch.device) -> None:
        """End a batch."""
        self.anchors.clear()
        for stream in self.streams:
            stream.close(samples, device)

    def watch(self, model: nn.Module, stack: ExitStack) -> None:
        """Hook every port; the stack removes the hooks."""
        for port, watched in self.ports.items():
            stack.enter_context(hooked(model, port, self._feeder(port, watched)))

    def _feeder(self, port: Port, watched: list[tuple[Stream, Site]]) -> Callable[[Tensor], Tensor]:
        read = [(s, site) for s, site in watched if isinstance(s.need, Activations)]
        gated = [(s, site) for s, site in watched if isinstance(s.need, GateGradients)]

        def feed(x: Tensor) -> Tensor:
            batch_dim = self.batch_dims[port]
            for stream, site in read:
                stream.accumulator.update(
                    by_place(x.detach(), site, batch_dim)
                    if cast("Activations[Any]", stream.need).spatial
                    else by_unit(by_entry(x.detach(), site.dim, batch_dim), site)
                )
            if not gated:
                return x
            if not x.requires_grad:  # frozen weights before this point: gradients start here
                x = x.detach().requires_grad_()
                self.anchors.append(x)
            return tap(x, sink, before_inplace=port[1] == "output")

        def sink(x: Tensor, grad: Tensor) -> None:
            summed: dict[int, Tensor] = {}
            for stream, site in gated:
                if site.dim not in summed:
                    summed[site.dim] = gate_gradient(x, grad, site.dim, self.batch_dims[port]).unsqueeze(2)
                stream.add(by_unit(summed[site.dim], site).sum(2))

        return feed


def open_streams(graph: Sited, needs: Mapping[Any, Any], groups: Iterable[Group]) -> Streams:
    """Choose the sites of every group and create its accumulators; refuse a group without a site.

    needs: need -> the name that the criterion gave it.
    """
    streams: list[Stream] = []
    chosen = tuple(groups)
    for need, name in needs.items():
        if not isinstance(need, Activations | GateGradients):
            continue
        asked = cast("Activations[Any] | GateGradients[Any]", need)
        sites = {group.name: asked.at(graph.sites(group.name)) for group in chosen}
        bare = [group for group, found in sites.items() if not found]
        if bare:
            msg = (
                f"{asked!r}{'' if name is need else f', needed as {name!r},'} finds no site for {_listed(bare)}. Their "
                "units pass through no module there, only through functions, which carry no hook. Choose other sites "
                "(at=...), or leave these groups out."
            )
            raise EvidenceError(msg)
        streams += [Stream(asked, g, sites[g.name], asked.accumulate(g, sites[g.name])) for g in chosen]
    return Streams(tuple(streams))


def probe(streams: Streams, model: nn.Module, forward: Callable[[int], Any]) -> None:
    """Find the batch dimension of every hooked input and output, from a forward with one sample and one with two.

    Guessing dimension 0 would be wrong for sequence-first attention, windows and regions of interest.
    """
    seen: list[dict[Port, list[tuple[int, ...]]]] = []
    for samples in (1, 2):
        shapes: dict[Port, list[tuple[int, ...]]] = defaultdict(list)
        with ExitStack() as stack, torch.no_grad():
            for port in streams.ports:
                stack.enter_context(hooked(model, port, _shape_into(shapes[port])))
            forward(samples)
        seen.append(shapes)
    one, two = seen
    for port, watched in streams.ports.items():
        if not one[port]:
            group = watched[0][0].group.name
            msg = (
                f"module {port[0]!r}, which carries group {group!r}, did not run on these inputs. "
                "Its statistics would be empty. Pass data shaped like the inputs that the graph was traced with."
            )
            raise EvidenceError(msg)
        if len(one[port]) != len(two[port]):
            streams.batch_dims[port] = None
            continue
        dims = {batch_dim_of(a, b) for a, b in zip(one[port], two[port], strict=True)}
        streams.batch_dims[port] = dims.pop() if len(dims) == 1 else None


def _shape_into(shapes: list[tuple[int, ...]]) -> Callable[[Tensor], Tensor]:
    def note(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x

    return note


def _listed(names: list[str]) -> str:
    """Name the first few groups."""
    shown = ", ".join(map(repr, names[:5]))
    return f"group{'s' if len(names) > 1 else ''} {shown}{' ...' if len(names) > 5 else ''}"
