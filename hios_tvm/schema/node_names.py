"""Which nodes of a model an operator came from, from the frontend to the operator graph.

Lowering replaces nodes by others and makes one operator of several. What TVM's passes keep through
all of this are the names of variables: the one of ``n3x`` says that node 3 computes it, ``n3_7x``
that an operator was made of nodes 3 and 7. `main` has the names of the nodes as an attribute.
"""

import re
from collections.abc import Iterable

NODE_NAMES = "node_names"
"""Attribute of `main`: the name of each node, by its number."""

QUANTIZED_NODES = "quantized_nodes"
"""Attribute of `main`: the names of nodes that compute with quantized tensors."""

OPERATOR_NODES = "operator_nodes"
"""Attribute of a canonical `main`: the names of each operator's nodes."""

_NODES = re.compile(r"n(\d+(?:_\d+)*)x\d*")  # TVM appends digits where a name is taken


def variable_of(nodes: Iterable[int]) -> str:
    """Return a name for a variable that these nodes compute; an empty one for none.

    >>> variable_of([3, 7]), variable_of([])
    ('n3_7x', '')
    """
    numbers = "_".join(map(str, nodes))
    return f"n{numbers}x" if numbers else ""


def nodes_of(variable: str) -> tuple[int, ...]:
    """Return the nodes that the name of a variable tells; none where it tells nothing.

    >>> nodes_of("n3_7x"), nodes_of("n12x4"), nodes_of("lv3")
    ((3, 7), (12,), ())
    """
    match = _NODES.fullmatch(variable)
    return tuple(map(int, match[1].split("_"))) if match else ()
