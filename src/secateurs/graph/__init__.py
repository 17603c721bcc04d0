"""The graph: groups of channels that must be removed together, and the cost of a network."""

from secateurs.graph.graph import Graph, prove
from secateurs.graph.groups import Cost, Group, Protected, Site, Slice, Tie
from secateurs.graph.trace import trace

__all__ = ["Cost", "Graph", "Group", "Protected", "Site", "Slice", "Tie", "prove", "trace"]
