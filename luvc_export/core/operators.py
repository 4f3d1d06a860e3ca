"""What the TensorRT plugins read and write: the one description of both, for the surgeon, the kernels and C++.

``plugins/make_contract.py`` turns it into ``plugins/common/contract.h``, which the plugins take every name and place
from; the surgeon checks its nodes against it (export/surgeon/fused/plugin_call.py).
What is computed: plugins/include/luvc.

Shapes: G groups (images of all rows of a batch), N tokens each, K kept, D channels, M low-pass basis columns; B images
of H x W units, C channels, P position coordinates. A size in lower case is an attribute's; ``H-removed_rows`` is a
difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ONNX domain of nodes that a plugin runs. Fused nodes, which carry ONNX bodies, are of the domain ``luvc``.
DOMAIN = "luvc.plugin"
#: Namespace and version under which the creators register; TensorRT's parser reads both from a node's attributes.
NAMESPACE, VERSION = "luvc", "1"
#: Values of the attribute ``score``, in the order of ``luvc_score``.
SCORES = ("low", "residual", "ratio")
#: LUVC_MAX_PAYLOADS: tensors whose rows travel with the kept tokens.
MAX_PAYLOADS = 7

FLOATS = ("float32", "float16", "bfloat16")
ANY = (*FLOATS, "int32", "int64")

AttributeKind = Literal["INT", "INTS", "FLOAT", "STRING"]


@dataclass(frozen=True)
class OperatorTensor:
    """An input or output.

    Attributes:
        name: In snake case.
        types: Element types it may have.
        shape: Sizes; none for a payload.
        like: The input whose element type it has.
        payload: Stands for up to ``MAX_PAYLOADS`` tensors [..., G, N, ...] with N at the axis ``token_axes`` gives.
    """

    name: str
    types: tuple[str, ...]
    shape: tuple[str, ...] = ()
    like: str = ""
    payload: bool = False


@dataclass(frozen=True)
class Attribute:
    """An attribute, by ONNX's name of its kind. A plugin field has TensorRT's type for that kind.

    Attributes:
        name: In snake case.
        kind: INT and INTS arrive as int32, STRING as characters.
        choices: Values it may have, where they are named.
        optional: It may be left out.
    """

    name: str
    kind: AttributeKind
    choices: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Operator:
    """A plugin: its name, tensors and attributes, in order."""

    name: str
    inputs: tuple[OperatorTensor, ...]
    outputs: tuple[OperatorTensor, ...]
    attributes: tuple[Attribute, ...]


SPECTRUM_PRUNE = Operator(
    "SpectrumPrune",
    (
        OperatorTensor("values", FLOATS, ("G", "N", "D")),
        OperatorTensor("norm_weight", FLOATS, ("D",)),
        OperatorTensor("basis", ("float32",), ("N", "M")),
        OperatorTensor("payload", ANY, payload=True),
    ),
    (
        OperatorTensor("kept_values", FLOATS, ("G", "keep", "D"), like="values"),
        OperatorTensor("indices", ("int64",), ("G", "keep")),
        OperatorTensor("kept_payload", ANY, like="payload", payload=True),
    ),
    (
        Attribute("keep", "INT"),
        Attribute("score", "STRING", SCORES),
        Attribute("epsilon", "FLOAT"),
        Attribute("token_axes", "INTS", optional=True),
    ),
)

ORTHOGONAL_MERGE = Operator(
    "OrthogonalMerge",
    (
        OperatorTensor("values", FLOATS, ("B", "H", "W", "C")),
        OperatorTensor("sizes", ("float32",), ("B", "H", "W")),
        OperatorTensor("positions", ("float32",), ("B", "H", "W", "P")),
    ),
    (
        OperatorTensor("merged_values", FLOATS, ("B", "H-removed_rows", "W-removed_columns", "C"), like="values"),
        OperatorTensor("merged_sizes", ("float32",), ("B", "H-removed_rows", "W-removed_columns")),
        OperatorTensor("merged_positions", ("float32",), ("B", "H-removed_rows", "W-removed_columns", "P")),
        OperatorTensor("merged_into", ("int32",), ("B", "H", "W")),
    ),
    (Attribute("removed_columns", "INT"), Attribute("removed_rows", "INT")),
)

OPERATORS = {operator.name: operator for operator in (SPECTRUM_PRUNE, ORTHOGONAL_MERGE)}
