"""The gated delta rule: a state matrix that every row fades, corrects and reads (Yang et al., arXiv 2412.06464).

Row t of a head: S <- exp(decay_t) S;  S <- S + beta_t k_t (v_t - S^T k_t)^T;  out_t = S^T q_t.

Rows are taken in chunks. Inside a chunk of C rows the corrections depend on each other by a unit lower triangle
I + A [C, C]; it is inverted by block substitution: the inverses of two blocks of s rows beside each other give that of
2 s, log2 C times, each time X <- X - X (A M_s) X with M_s the blocks in between. Powers of A, which the inverse is a
sum of too, are lost in rounding where keys are alike, as those of flat pictures are
(``tests/export/llm/states/test_delta_rule.py``).

Between chunks the state goes S <- D_c S + B_c. In torch that is a loop. In ONNX it is neither Loop nor Scan: bundles
hold no graphs within graphs, and a Scan of no steps ends ONNX Runtime and OpenVINO with a division by zero. Chunks are
joined in pairs, pairs in pairs again, ``DEPTH`` times, and then taken apart (Blelloch's prefixes): so many rows a call
takes. One row, a step of decoding, follows the rule itself.

Shapes: B rows of a batch, H heads, S rows, Dk and Dv sizes of keys and values; all fp32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Rows of a chunk, and how often two neighbours are joined.
CHUNK, DEPTH = 64, 8
#: Rows of a call at most.
MOST_ROWS = CHUNK * 2**DEPTH
#: The operator in a trace; its body is ``surgeon.fused.delta_body``.
DOMAIN, NAME = "luvc", "GatedDeltaRule"


class Rows(NamedTuple):
    """What the rows of a call bring.

    Attributes:
        query: [B, H, S, Dk], normalised and scaled.
        key: [B, H, S, Dk], normalised.
        value: [B, H, S, Dv].
        decay: Logarithm of what stays of the state, [B, H, S], at most 0; 0 for padding.
        beta: Share of the correction that is made, [B, H, S]; 0 for padding.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    decay: Tensor
    beta: Tensor


def gated_delta_rule(rows: Rows, state: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """What rows read, [B, H, S, Dv], and the state after them.

    Args:
        rows: In logical order, padding last.
        state: Before them, [B, H, Dk, Dv].
        order: Any int64 [B, S] that layers share: graphs count rows by it once for all of them.
    """
    if torch.compiler.is_exporting():
        out, after = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{NAME}",
            [*rows, state, order],
            {},
            dtypes=(torch.float32, torch.float32),
            shapes=(rows.value.shape, state.shape),
            version=1,
        )
        return out, after
    parts = []
    for first in range(0, rows.query.shape[2], CHUNK):
        chunk = Rows(*(part[:, :, first : first + CHUNK] for part in rows))
        out, state = one_chunk(chunk, state)
        parts.append(out)
    return torch.cat(parts, 2), state


def one_chunk(rows: Rows, state: Tensor) -> tuple[Tensor, Tensor]:
    """As ``gated_delta_rule``, all rows at once."""
    count = rows.query.shape[2]
    faded = rows.decay.cumsum(2)
    between = faded[:, :, :, None] - faded[:, :, None]
    lower = torch.ones(count, count, dtype=torch.bool).tril()
    between = torch.where(lower, between, -torch.inf).exp()
    keys = rows.key * rows.beta[..., None]
    alike = (keys @ rows.key.transpose(2, 3) * between).tril(-1)
    inverse = unit_lower_inverse(alike)
    values, read = inverse @ (rows.value * rows.beta[..., None]), inverse @ (keys * faded.exp()[..., None])
    new = values - read @ state
    out = rows.query * faded.exp()[..., None] @ state + rows.query @ rows.key.transpose(2, 3) * between @ new
    left = rows.key * (faded[:, :, -1:] - faded).exp()[..., None]
    return out, state * faded[:, :, -1].exp()[..., None, None] + left.transpose(2, 3) @ new


def unit_lower_inverse(lower: Tensor) -> Tensor:
    """Inverse of I + ``lower``, strictly lower [..., C, C], by block substitution."""
    count = lower.shape[-1]
    inverse = torch.eye(count).expand(lower.shape)
    for mask in block_masks(count):
        inverse = inverse - inverse @ (lower * mask) @ inverse
    return inverse


def block_masks(count: int) -> list[Tensor]:
    """Which entries join two blocks of 1, 2, 4, ... rows beside each other, fp32 [C, C] each."""
    place, masks, side = torch.arange(count), [], 1
    while side < count:
        block = place // side
        masks.append(((block[:, None] == block[None] + 1) & (block[:, None] % 2 == 1)).float())
        side *= 2
    return masks
