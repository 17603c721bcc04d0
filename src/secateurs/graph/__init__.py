"""The graph: which channels must be removed together, and what a network costs."""

from secateurs.graph.graph import Graph, prove
from secateurs.graph.groups import Cost, Group, Protected, Site, Slice, Tie
from secateurs.graph.refuse import check_model, check_values
from secateurs.graph.trace import trace

__all__ = ["Cost", "Graph", "Group", "Protected", "Site", "Slice", "Tie", "check_model", "check_values", "prove", "trace"]
