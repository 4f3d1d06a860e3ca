"""The visual rows of a sequence [visual | text] as images [B G, N, ...], and back again with fewer of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.export.surgeon.graph import Surgery

_TO_THE_END = [np.iinfo(np.int64).max]


class VisualRows:
    """B rows of a batch, G images a row, N tokens an image of which K are kept; B and G are computed in the graph.

    Args:
        surgery: Where nodes go.
        index: int64 [B, G, N], any tensor of that shape.
        tokens: N.
        keep: K.
    """

    def __init__(self, surgery: Surgery, index: gs.Tensor, tokens: int, keep: int) -> None:
        self.surgery, self.tokens, self.keep = surgery, tokens, keep
        self.batch, self.groups = (self._emit("Shape", [index], start=axis, end=axis + 1) for axis in (0, 1))
        self.end = self._emit("Mul", [self.groups, [tokens]])
        self.kept_end = self._emit("Mul", [self.groups, [keep]])

    def visual(self, sequence: gs.Tensor, tail: list[int]) -> gs.Variable:
        """[B, S, tail] -> [B G, N, tail]."""
        part = self._emit("Slice", [sequence, [0], self.end, [1]], sequence, [None, None, *tail])
        return self.images(part, tail)

    def images(self, rows: gs.Tensor, tail: list[int]) -> gs.Variable:
        """[B, G N, tail] or [B, G, N, tail] -> [B G, N, tail]."""
        return self._emit("Reshape", [rows, [-1, self.tokens, *tail]], rows, [None, self.tokens, *tail])

    def with_text(self, kept: gs.Tensor, sequence: gs.Tensor, tail: list[int]) -> gs.Variable:
        """[B G, K, tail] and the text rows of [B, S, tail] -> [B, G K + T, tail]."""
        sizes = self._emit("Concat", [self.batch, self.kept_end, *([tail] if tail else [])], axis=0)
        shape = [None, None, *tail]
        visual = self._emit("Reshape", [kept, sizes], sequence, shape, allowzero=1)
        text = self._emit("Slice", [sequence, self.end, _TO_THE_END, [1]], sequence, shape)
        return self._emit("Concat", [visual, text], sequence, shape, axis=1)

    def by_row(self, kept: gs.Tensor) -> gs.Variable:
        """[B G, K] -> [B, G, K]."""
        sizes = self._emit("Concat", [self.batch, self.groups, [self.keep]], axis=0)
        return self._emit("Reshape", [kept, sizes], kept, [None, None, self.keep], allowzero=1)

    def _emit(
        self,
        op: str,
        inputs: Sequence[Any],
        like: gs.Tensor | None = None,
        shape: list[int | None] | None = None,
        **attributes: Any,
    ) -> gs.Variable:
        """A node whose output has the type of ``like`` and this shape; without one, int64 sizes."""
        out = self.surgery.emit(op, inputs, **attributes)[0]
        out.dtype, out.shape = (np.dtype(np.int64), None) if like is None else (like.dtype, shape)
        return out
