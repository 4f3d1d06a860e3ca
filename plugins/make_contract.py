"""Write common/contract.h from luvc_export/core/operators.json. ``python plugins/make_contract.py``."""

from __future__ import annotations

from pathlib import Path

from luvc_export.core.operators import (
    ANY,
    FLOATS,
    MAX_PAYLOADS,
    NAMESPACE,
    OPERATORS,
    SCORES,
    VERSION,
    Attribute,
    Operator,
    OperatorTensor,
)

HEADER = Path(__file__).resolve().parent / "common" / "contract.h"

_INTRODUCTION = """\
// What the plugins read and write. Made by plugins/make_contract.py from luvc_export/core/operators.json: change that.
#pragma once

#include <array>

#include "luvc/abi.h"

namespace luvc::contract {

// An ONNX attribute kind; TensorRT's parser hands kInt and kInts over as int32, kString as characters.
enum class Kind { kInt, kInts, kFloat, kString };

struct Attribute {
    const char* name;
    Kind kind;
    bool optional;
};

// `types` has the bit of every luvc_dtype it may be of. `like` is the input whose type it has, -1 for none. A payload
// has a rank of its own and may be there any number of times.
struct Tensor {
    const char* name;
    int rank;
    unsigned types;
    int like;
    bool payload;
};

constexpr unsigned bit(luvc_dtype dtype) {
    return 1u << dtype;
}
constexpr unsigned kFloats = bit(LUVC_FLOAT32) | bit(LUVC_FLOAT16) | bit(LUVC_BFLOAT16);
constexpr unsigned kAny = kFloats | bit(LUVC_INT32) | bit(LUVC_INT64);
"""


def camel(name: str) -> str:
    """``norm_weight`` to ``NormWeight``."""
    return "".join(part.capitalize() for part in name.split("_"))


def enumeration(title: str, tensors: tuple[OperatorTensor, ...]) -> str:
    """Places of tensors; a payload, which may be several, is the first of them."""
    names = [f"kFirst{camel(tensor.name)}" if tensor.payload else f"k{camel(tensor.name)}" for tensor in tensors]
    return f"enum {title} {{ {', '.join(names)} }};"


def mask(types: tuple[str, ...]) -> str:
    """The bits of element types."""
    named = {FLOATS: "kFloats", ANY: "kAny"}
    return named.get(types) or " | ".join(f"bit(LUVC_{kind.upper()})" for kind in types)


def tensor_table(title: str, tensors: tuple[OperatorTensor, ...], inputs: tuple[OperatorTensor, ...]) -> str:
    """Rows of ``OperatorTensor``."""
    places = {tensor.name: place for place, tensor in enumerate(inputs)}
    rows = [
        f'{{"{t.name}", {len(t.shape)}, {mask(t.types)}, {places.get(t.like, -1)}, {str(t.payload).lower()}}}'
        for t in tensors
    ]
    return f"constexpr std::array<Tensor, {len(rows)}> k{title}s{{{{\n    " + ",\n    ".join(rows) + "}};"


def attribute_table(attributes: tuple[Attribute, ...]) -> str:
    """Names as constants, then rows of ``Attribute``."""
    names = "\n".join(f'constexpr char k{camel(a.name)}Field[] = "{a.name}";' for a in attributes)
    rows = [f"{{k{camel(a.name)}Field, Kind::k{a.kind.capitalize()}, {str(a.optional).lower()}}}" for a in attributes]
    start = f"{names}\nconstexpr std::array<Attribute, {len(rows)}> kAttributes{{{{\n    "
    return start + ",\n    ".join(rows) + "}};"


def namespace(operator: Operator) -> str:
    """One operator."""
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in operator.name).lstrip("_")
    parts = [
        f'constexpr char kName[] = "{operator.name}";',
        enumeration("Input", operator.inputs),
        tensor_table("Input", operator.inputs, operator.inputs),
        enumeration("Output", operator.outputs),
        tensor_table("Output", operator.outputs, operator.inputs),
        attribute_table(operator.attributes),
    ]
    body = "\n".join(parts)
    return f"namespace {name} {{\n\n{body}\n\n}}  // namespace {name}\n"


def header(operators: dict[str, Operator] = OPERATORS) -> str:
    """The whole file."""
    scores = ", ".join(f'"{score}"' for score in SCORES)
    constants = f"""\
constexpr char kNamespace[] = "{NAMESPACE}";
constexpr char kVersion[] = "{VERSION}";
constexpr int kMaxPayloads = {MAX_PAYLOADS};
constexpr std::array<const char*, {len(SCORES)}> kScores{{{scores}}};  // by luvc_score
"""
    spaces = [namespace(operator) for operator in operators.values()]
    return "\n".join([_INTRODUCTION, constants, *spaces, "}  // namespace luvc::contract\n"])


if __name__ == "__main__":
    HEADER.write_text(header(), encoding="utf-8")
