"""Fused operators: the one schema of the surgeon's ONNX functions and of the TensorRT plugins.

An operator has two forms. The surgeon's fused node (domain ``luvc``) works on the whole sequence or grid and carries an
ONNX body; the plugin's node (domain ``luvc.plugin``) has none and sees images. Here every tensor and attribute has one
name, which this code uses throughout and the plugin's fields have. Graphs on disk call some otherwise: ``fused`` says
how. The schema is ``operators.json``, whose names and orders never change.

From it are made: marks in a trace (export/compression/marks.py), fused nodes and the heads of their bodies
(export/surgeon/fused/node.py), plugin nodes and their check (export/surgeon/passes/call_plugins.py), and
``plugins/common/contract.h``, which the plugins take every name and place from (``plugins/make_contract.py``). What is
computed: docs/surgery.md and plugins/include/luvc.

Shapes are the plugin's, or the fused node's where it alone has the tensor: G groups (images of all rows of a batch), N
tokens each, K kept, D channels, M low-pass basis columns, B rows of S tokens, R rotary frequencies; when merging, B
images of H x W units, C channels, P position coordinates, Q coordinates of copies. A size in lower case is an
attribute's; ``H-removed_rows`` is a difference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: ONNX domain of nodes that a plugin runs. Fused nodes, which carry ONNX bodies, are of the domain ``luvc``.
DOMAIN = "luvc.plugin"
#: ONNX domain of ONNX Runtime's own operators (``MatMulNBits``).
CONTRIB_DOMAIN = "com.microsoft"
#: Namespace and version under which the creators register; TensorRT's parser reads both from a node's attributes.
NAMESPACE, VERSION = "luvc", "1"
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
        optional: It may be left out: ``padding_payload``, the place of the payload whose negative numbers mark padding
            (or -1), where there is none; ``padded``, 1 where units of small sizes are padding.
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


def _schemas() -> tuple[Schema, ...]:
    """Every schema, from tables of tensors and attributes by name, and names in order, separated by spaces."""
    data = json.loads(Path(__file__).with_name("operators.json").read_text(encoding="utf-8"))
    sets = {"floats": FLOATS, "any": ANY}
    tensors, attributes = dict[str, dict[str, OperatorTensor]](), dict[str, dict[str, Attribute]]()
    for table, rows in data["tensors"].items():
        several = [{**row, "types": sets.get(row["types"]) or tuple(row["types"].split())} for row in rows]
        tensors[table] = {row["name"]: OperatorTensor(**{**row, "shape": _words(row, "shape")}) for row in several}
    for table, rows in data["attributes"].items():
        attributes[table] = {row["name"]: Attribute(**{**row, "choices": _words(row, "choices")}) for row in rows}

    def form(row: dict[str, Any], order: str) -> Operator:
        inputs, outputs, settings = row[order]
        sides = [tuple(tensors[row["of"]][name] for name in side.split()) for side in (inputs, outputs)]
        table = attributes[row["of"]]
        return Operator(row["name"], sides[0], sides[1], tuple(table[name] for name in settings.split()))

    return tuple(
        Schema(form(row, "fused"), form(row, "plugin") if "plugin" in row else None, _words(row, "variants"))
        for row in data["operators"]
    )


def _words(row: dict[str, Any], field: str) -> tuple[str, ...]:
    return tuple(row.get(field, "").split())


_SCHEMAS = _schemas()
#: What a trace marks of a prune is ``SPECTRUM_CHOOSE``, which tokens stay, then ``KEEP_ROWS``, the rows of the sequence
#: with what travels with them: those of the tokens that stay, and of the text. Surgery makes one ``SPECTRUM_PRUNE`` of
#: the two. ``SPECTRUM_DROP`` keeps nothing: the text alone goes on.
SPECTRUM_PRUNE, SPECTRUM_CHOOSE, KEEP_ROWS, SPECTRUM_DROP = _SCHEMAS[:4]
#: What a trace marks of a merge is ``MERGE_COLUMNS``, one axis pass; surgery makes ``ORTHOGONAL_MERGE`` of a pair, its
#: variant of a lone one. ``MERGE_AXIS`` is one axis of a merge, called by the body of ``ORTHOGONAL_MERGE`` alone: units
#: [B, R, W] in lines of ``length`` W. ``merged_into`` is int64 [B, H * W] in the ONNX function.
ORTHOGONAL_MERGE, MERGE_COLUMNS, MERGE_AXIS = _SCHEMAS[4:]
#: Values of the attribute ``score``, in the order of ``luvc_score``.
SCORES = next(each.choices for each in SPECTRUM_PRUNE.fused.attributes if each.name == "score")
#: Schemas by operator name of a fused node.
FUSED = {name: schema for schema in _SCHEMAS for name in (schema.name, *schema.variants)}
#: Operators of a trace that surgery leaves none of.
MARKS = frozenset(name for each in (SPECTRUM_CHOOSE, KEEP_ROWS, MERGE_COLUMNS) for name in (each.name, *each.variants))
#: Plugins by operator name.
OPERATORS = {schema.name: schema.plugin for schema in _SCHEMAS if schema.plugin is not None}
