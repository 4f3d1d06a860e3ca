"""Fused operators: the one schema of the surgeon's ONNX functions and of the TensorRT plugins.

An operator has two forms. The surgeon's fused node (domain ``luvc``) works on the whole sequence or grid and carries an
ONNX body; the plugin's node (domain ``luvc.plugin``) has none and sees images. Here every tensor and attribute has one
name, which this code uses throughout and the plugin's fields have. Graphs on disk call some otherwise: ``fused`` says
how, and those names and the orders below never change.

From the schema are made: marks in a trace (export/compression/marks.py), fused nodes and the heads of their bodies
(export/surgeon/fused/node.py), plugin nodes and their check (export/surgeon/fused/plugin_call.py), and
``plugins/common/contract.h``, which the plugins take every name and place from (``plugins/make_contract.py``). What is
computed: docs/surgery.md and plugins/include/luvc.

Shapes are the plugin's, or the fused node's where it alone has the tensor: G groups (images of all rows of a batch), N
tokens each, K kept, D channels, M low-pass basis columns, B rows of S tokens, R rotary frequencies; when merging, B
images of H x W units, C channels, P position coordinates, Q coordinates of copies. A size in lower case is an
attribute's; ``H-removed_rows`` is a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ONNX domain of nodes that a plugin runs. Fused nodes, which carry ONNX bodies, are of the domain ``luvc``.
DOMAIN = "luvc.plugin"
#: ONNX domain of ONNX Runtime's own operators (``MatMulNBits``).
CONTRIB_DOMAIN = "com.microsoft"
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
        fused: Its name in the ONNX function, where that has another.
        low: Holds hidden states or their weights, so it is of a graph's low precision; the others are not.
        travels: Its visual rows are one of the plugin's payloads, if anything reads them.
    """

    name: str
    types: tuple[str, ...]
    shape: tuple[str, ...] = ()
    like: str = ""
    payload: bool = False
    fused: str = ""
    low: bool = False
    travels: bool = False

    @property
    def onnx(self) -> str:
        """Its name in the ONNX function."""
        return self.fused or self.name


@dataclass(frozen=True)
class Attribute:
    """An attribute, by ONNX's name of its kind. A plugin field has TensorRT's type for that kind.

    Attributes:
        name: In snake case.
        kind: INT and INTS arrive as int32, STRING as characters.
        choices: Values it may have, where they are named.
        optional: It may be left out.
        fused: Its name on the fused node, where that has another.
    """

    name: str
    kind: AttributeKind
    choices: tuple[str, ...] = ()
    optional: bool = False
    fused: str = ""

    @property
    def onnx(self) -> str:
        """Its name on the fused node."""
        return self.fused or self.name


@dataclass(frozen=True)
class Operator:
    """One form: its name, tensors and attributes, in order."""

    name: str
    inputs: tuple[OperatorTensor, ...]
    outputs: tuple[OperatorTensor, ...]
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class Schema:
    """An operator in its forms.

    Attributes:
        fused: The surgeon's node.
        plugin: The plugin's; None where it has none.
        variants: Names of fused nodes that do a part of it with the same tensors, since an ONNX body has no branches.
    """

    fused: Operator
    plugin: Operator | None = None
    variants: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Operator name of both forms."""
        return self.fused.name


_Order = tuple[str, str, str]


def _schema(
    name: str,
    tensors: tuple[OperatorTensor, ...],
    attributes: tuple[Attribute, ...],
    fused: _Order,
    plugin: _Order | None = None,
    variants: tuple[str, ...] = (),
) -> Schema:
    """Forms from names of their inputs, outputs and attributes in order, separated by spaces."""
    by_name, settings = {t.name: t for t in tensors}, {a.name: a for a in attributes}

    def form(order: _Order) -> Operator:
        inputs, outputs, fields = (words.split() for words in order)
        return Operator(
            name, tuple(map(by_name.__getitem__, inputs)), tuple(map(by_name.__getitem__, outputs)),
            tuple(map(settings.__getitem__, fields)),
        )  # fmt: skip

    return Schema(form(fused), form(plugin) if plugin else None, variants)


_PRUNED = (
    OperatorTensor("values", FLOATS, ("G", "N", "D"), fused="hidden", low=True),
    OperatorTensor("norm_weight", FLOATS, ("D",), low=True),
    OperatorTensor("basis", ("float32",), ("N", "M")),
    OperatorTensor("order", ("int64",), ("B", "S"), travels=True),
    OperatorTensor("cos", ("float32",), ("B", "S", "R"), travels=True),
    OperatorTensor("sin", ("float32",), ("B", "S", "R"), travels=True),
    OperatorTensor("index", ("int64",), ("B", "G", "N"), travels=True),
    OperatorTensor("payload", ANY, payload=True),
    OperatorTensor("kept_values", FLOATS, ("G", "keep", "D"), like="values", fused="kept_hidden", low=True),
    OperatorTensor("kept_order", ("int64",), ("B", "S-dropped"), like="order", travels=True),
    OperatorTensor("kept_cos", ("float32",), ("B", "S-dropped", "R"), like="cos", travels=True),
    OperatorTensor("kept_sin", ("float32",), ("B", "S-dropped", "R"), like="sin", travels=True),
    OperatorTensor("kept_index", ("int64",), ("B", "G", "keep"), like="index", travels=True),
    OperatorTensor("kept_normed", FLOATS, ("B", "S-dropped", "D"), like="values", low=True),
    OperatorTensor("indices", ("int64",), ("G", "keep"), fused="chosen"),
    OperatorTensor("kept_payload", ANY, like="payload", payload=True),
)
_PRUNING = (
    Attribute("tokens", "INT"),
    Attribute("keep", "INT"),
    Attribute("cutoff", "INT"),
    Attribute("frequencies", "INT"),
    Attribute("score", "STRING", SCORES),
    Attribute("axis", "STRING", ("token", "channel")),
    Attribute("epsilon", "FLOAT"),
    Attribute("token_axes", "INTS", optional=True),
    # Place of the payload whose negative numbers mark padding; -1 or left out where there is none.
    Attribute("padding_payload", "INT", optional=True),
)

SPECTRUM_PRUNE = _schema(
    "SpectrumPrune",
    _PRUNED,
    _PRUNING,
    fused=(
        "values norm_weight basis order cos sin index",
        "kept_values kept_order kept_cos kept_sin kept_index kept_normed indices",
        "tokens keep cutoff frequencies score axis epsilon",
    ),
    plugin=(
        "values norm_weight basis payload",
        "kept_values indices kept_payload",
        "keep score epsilon token_axes padding_payload",
    ),
)

#: What a trace marks of a prune; surgery makes one ``SpectrumPrune`` of the two. First which tokens stay,
SPECTRUM_CHOOSE = _schema(
    "SpectrumChoose",
    _PRUNED,
    _PRUNING,
    fused=("values norm_weight basis index", "indices", "tokens keep cutoff frequencies score axis epsilon"),
)

#: then the rows of the sequence, with what travels with them: those of the tokens that stay, and of the text.
KEEP_ROWS = _schema(
    "KeepRows",
    _PRUNED,
    _PRUNING,
    fused=(
        "values order cos sin index indices",
        "kept_values kept_order kept_cos kept_sin kept_index",
        "tokens keep",
    ),
)

#: A prune that keeps nothing: the text alone goes on.
SPECTRUM_DROP = _schema(
    "SpectrumDrop",
    _PRUNED,
    _PRUNING,
    fused=("values order cos sin index", "kept_values kept_order kept_cos kept_sin", "tokens keep"),
)

_MERGED = (
    OperatorTensor("values", FLOATS, ("B", "H", "W", "C"), fused="x", low=True),
    OperatorTensor("sizes", ("float32",), ("B", "H", "W")),
    OperatorTensor("positions", ("float32",), ("B", "H", "W", "P")),
    OperatorTensor("copies", ("float32",), ("B", "H", "W", "Q")),
    OperatorTensor(
        "merged_values",
        FLOATS,
        ("B", "H-removed_rows", "W-removed_columns", "C"),
        like="values",
        fused="merged_x",
        low=True,
    ),
    OperatorTensor("merged_sizes", ("float32",), ("B", "H-removed_rows", "W-removed_columns")),
    OperatorTensor("merged_positions", ("float32",), ("B", "H-removed_rows", "W-removed_columns", "P")),
    OperatorTensor("merged_copies", ("float32",), ("B", "H-removed_rows", "W-removed_columns", "Q")),
    # int64 [B, H * W] in the ONNX function
    OperatorTensor("merged_into", ("int32",), ("B", "H", "W"), fused="places"),
)
_MERGING = (
    Attribute("height", "INT"),
    Attribute("width", "INT"),
    Attribute("removed_rows", "INT", fused="rows"),
    Attribute("removed_columns", "INT", fused="columns"),
    Attribute("mode", "STRING", ("mean", "max")),
    # 1 where units of small sizes are padding.
    Attribute("padded", "INT", optional=True),
)
_MERGE = (
    "values sizes positions copies",
    "merged_values merged_sizes merged_positions merged_copies merged_into",
    "height width removed_rows removed_columns mode",
)

ORTHOGONAL_MERGE = _schema(
    "OrthogonalMerge",
    _MERGED,
    _MERGING,
    fused=_MERGE,
    plugin=(
        "values sizes positions",
        "merged_values merged_sizes merged_positions merged_into",
        "removed_columns removed_rows padded",
    ),
    variants=("OrthogonalMergeColumns", "OrthogonalMergeRows"),
)

#: What a trace marks of a merge, one axis pass; surgery makes ``OrthogonalMerge`` of a pair, its variant of a lone one.
MERGE_COLUMNS = _schema("MergeColumns", _MERGED, _MERGING, fused=_MERGE, variants=("MergeRows",))

#: One axis of a merge, called by the body of ``OrthogonalMerge`` alone: units [B, R, W] in lines of ``length`` W.
MERGE_AXIS = _schema(
    "MergeAxis",
    (
        OperatorTensor("values", FLOATS, ("B", "R", "W", "C"), fused="x"),
        OperatorTensor("sizes", ("float32",), ("B", "R", "W")),
        OperatorTensor("positions", ("float32",), ("B", "R", "W", "P")),
        OperatorTensor("copies", ("float32",), ("B", "R", "W", "Q")),
        OperatorTensor("merged_values", FLOATS, ("B", "R", "W-removed", "C"), like="values", fused="new_x"),
        OperatorTensor("merged_sizes", ("float32",), ("B", "R", "W-removed"), fused="new_sizes"),
        OperatorTensor("merged_positions", ("float32",), ("B", "R", "W-removed", "P"), fused="new_positions"),
        OperatorTensor("merged_copies", ("float32",), ("B", "R", "W-removed", "Q"), fused="new_copies"),
        OperatorTensor("merged_into", ("int64",), ("B", "R", "W"), fused="into"),
    ),
    (Attribute("length", "INT"), Attribute("removed", "INT")),
    fused=(
        "values sizes positions copies",
        "merged_values merged_sizes merged_positions merged_copies merged_into",
        "length removed",
    ),
)

_SCHEMAS = (SPECTRUM_PRUNE, SPECTRUM_CHOOSE, KEEP_ROWS, SPECTRUM_DROP, ORTHOGONAL_MERGE, MERGE_COLUMNS, MERGE_AXIS)
#: Schemas by operator name of a fused node.
FUSED = {name: schema for schema in _SCHEMAS for name in (schema.name, *schema.variants)}
#: Operators of a trace that surgery leaves none of.
MARKS = frozenset(name for each in (SPECTRUM_CHOOSE, KEEP_ROWS, MERGE_COLUMNS) for name in (each.name, *each.variants))
#: Plugins by operator name.
OPERATORS = {schema.name: schema.plugin for schema in _SCHEMAS if schema.plugin is not None}
