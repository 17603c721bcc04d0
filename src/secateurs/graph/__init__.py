"""The graph: groups of channels that must be removed together, and the cost of a network."""

from secateurs.graph.explain import explain
from secateurs.graph.explanation import Explanation
from secateurs.graph.graph import Graph, prove
from secateurs.graph.groups import Cost, Group, Protected, Site, Slice, Tie
from secateurs.graph.trace import trace

__all__ = ["Cost", "Explanation", "Graph", "Group", "Protected", "Site", "Slice", "Tie", "explain", "prove", "trace"]
