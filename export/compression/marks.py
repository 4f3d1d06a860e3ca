"""Marks: in a trace for surgery, an axis pass or a selection is one symbolic node in place of its arithmetic.

Surgery then reads what was meant and need not find it again among operators. A mark computes nothing, so it stands in a
trace alone and only where it is asked for: torch otherwise runs the arithmetic, as does a trace that is to be compared.
What a mark computes in ONNX is the body of its operator (``surgeon.fused``), which docs/surgery.md holds to torch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from luvc_export.core.operators import Schema

#: ONNX domain of marks and of the fused nodes they become.
DOMAIN = "luvc"
#: Element type and sizes of an output.
Like = tuple[torch.dtype, Sequence[int]]

_MARKING = ContextVar("marking", default=False)


@contextmanager
def marking(wanted: bool = True) -> Iterator[None]:
    """Mark what is traced while this lasts, if ``wanted``."""
    token = _MARKING.set(wanted)
    try:
        yield
    finally:
        _MARKING.reset(token)


def marks() -> bool:
    """Whether to mark: a trace is going on that is to be marked."""
    return _MARKING.get() and torch.compiler.is_exporting()


def mark(
    schema: Schema,
    inputs: Mapping[str, Tensor],
    attributes: Mapping[str, Any],
    outputs: Mapping[str, Like],
    op: str = "",
) -> dict[str, Tensor]:
    """One node of ``schema``; its outputs by name.

    Args:
        schema: What it is.
        inputs: All of the schema's, by name.
        attributes: All of the schema's, by name.
        outputs: All of the schema's, by name.
        op: One of the schema's variants in its place.
    """
    form = schema.fused
    kinds, shapes = zip(*(outputs[tensor.name] for tensor in form.outputs), strict=True)
    results = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{op or schema.name}",
        [inputs[tensor.name] for tensor in form.inputs],
        {item.onnx: attributes[item.name] for item in form.attributes},
        dtypes=kinds,
        shapes=shapes,
        version=1,
    )
    return {tensor.name: value for tensor, value in zip(form.outputs, results, strict=True)}
