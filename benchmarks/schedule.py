"""The peak of int8 activations of a built network, from the operations that its forward pass performs.

PyTorch traces the network into single operations. Each operation that does not write over its input gets memory of its
own; memory is free after the last operation that reads it. Nothing of our layers or of our counter is used.
"""

from __future__ import annotations

import operator
from typing import Final

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

_IN_PLACE: Final = (nn.BatchNorm2d, nn.ReLU, nn.Sigmoid)
_IN_PLACE_FUNCTIONS: Final = (torch.relu_, operator.add, operator.mul, operator.getitem)


class _Tracer(fx.Tracer):
    """A tracer that does not look into convolutions; ours branches on the device."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def peak_of_built(network: nn.Module, image: torch.Tensor) -> int:
    """Return the most activations alive at once in a forward pass, a byte each.

    Args:
        network: A network in evaluation mode.
        image: A batch of one image, on the network's device, also ``meta``.

    Raises:
        ValueError: If an operation writes over a value that is read later.
    """
    graph = _Tracer().trace(network)
    traced = fx.GraphModule(network, graph)
    ShapeProp(traced).propagate(image)
    nodes = [node for node in graph.nodes if node.op != "output"]
    place = {node: index for index, node in enumerate(nodes)}
    last_read = {node: max((place.get(user, 0) for user in node.users), default=0) for node in nodes}
    memory: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        over = node.all_input_nodes[0] if _writes_over(node, traced) else None
        if over is not None and node.target is not operator.getitem and last_read[over] > place[node]:
            raise ValueError(f"{node} writes over {over}, which is read later")
        memory[node] = node if over is None else memory[over]
    last_use = {node: place[node] for node in nodes}
    for node in nodes:
        last_use[memory[node]] = max(last_use[memory[node]], place[node], last_read[node])
    sizes = {node: int(node.meta["tensor_meta"].shape.numel()) for node in nodes if memory[node] is node}
    return max(
        sum(size for node, size in sizes.items() if place[node] <= now <= last_use[node]) for now in range(len(nodes))
    )


def _writes_over(node: fx.Node, traced: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), _IN_PLACE)
    return node.op == "call_function" and node.target in _IN_PLACE_FUNCTIONS
