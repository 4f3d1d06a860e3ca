"""Batch > 1 under one plan: text of different lengths is padded, and each row answers as it does alone."""

from __future__ import annotations

import family_harness as harness
import numpy as np
import pytest
import torch
from family_harness import MADE_HERE, Case, Run, case
from torch import Tensor

#: Rows of a batch sum in another order than a row alone.
CLOSE = 2e-5


def _rows(tiny: Case) -> list[Run]:
    """Two prompts of two images each, one with four words less, and other pictures."""
    plan, images = tiny.thirds, tiny.images(4)
    embeds, positions, _ = harness.encode_images(tiny, plan, images)
    ids = tiny.prompt(2)
    prompts = ids, ids[2:-2]
    return [
        harness.lay_out(tiny, plan, ids, embeds[2 * row : 2 * row + 2], positions[2 * row : 2 * row + 2])
        for row, ids in enumerate(prompts)
    ]


def _pad(values: np.ndarray, length: int, fill: int) -> Tensor:
    missing = length - values.shape[-1]
    padding = [(0, 0)] * (values.ndim - 1) + [(0, missing)]
    return torch.from_numpy(np.pad(values, padding, constant_values=fill))


@pytest.mark.parametrize("name", MADE_HERE)
def test_rows_of_a_padded_batch_equal_their_own(name: str) -> None:
    tiny = case(name)
    plan, rows = tiny.thirds, _rows(tiny)
    decoder = tiny.family.decoder(tiny.model, plan)
    lengths = [row.layout.input_ids.shape[1] for row in rows]
    longest = max(lengths)
    assert len({*lengths}) == 2
    alone = []
    for row in rows:
        with torch.no_grad():
            logits, past, kept = decoder(*row.inputs(), harness.empty_past(tiny))
            inputs = harness.next_inputs(row, decoder, 7, row.layout.input_ids.shape[1] + 1)
            alone.append((logits[0, -1], kept, decoder(*inputs, past)[0][0, -1]))

    def text(part: str, fill: int) -> list[Tensor]:
        return [_pad(getattr(row.layout, part), longest, fill) for row in rows]

    def visual(part: str) -> list[Tensor]:
        return [torch.from_numpy(getattr(row.layout, part)) for row in rows]

    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        logits, past, kept = decoder(
            torch.stack([row.embeds for row in rows]),
            torch.cat(text("input_ids", 3)),
            torch.cat(visual("visual_position_ids"), 1),
            torch.cat(text("position_ids", 0), 1),
            torch.cat(visual("visual_order")),
            torch.cat(text("order", 0)),
            mask,
            torch.tensor(lengths)[:, None] - 1,
            harness.empty_past(tiny, 2),
        )
        steps = [harness.next_inputs(row, decoder, 7, row.layout.input_ids.shape[1] + 1) for row in rows]
        together = [torch.cat([step[i] for step in steps], 1 if i in (2, 3) else 0) for i in range(6)]
        after = decoder(
            *together, torch.cat([mask, torch.ones(2, 1, dtype=torch.bool)], 1), torch.zeros(2, 1).long(), past
        )[0]
    for row, (first, chosen, second) in enumerate(alone):
        assert harness.difference(logits[row, 0], first) < CLOSE
        assert harness.difference(after[row, 0], second) < CLOSE
        assert all(torch.equal(mine[row], own[0]) for mine, own in zip(kept, chosen, strict=True))


def test_padding_that_is_not_masked_moves_the_answer() -> None:
    tiny = case("qwen2_vl")
    row = _rows(tiny)[1]
    decoder = tiny.family.decoder(tiny.model, tiny.thirds)
    right = harness.logits(tiny, decoder, row)
    for part, fill in {"input_ids": 3, "position_ids": 0, "order": 0}.items():
        row.change[part] = lambda inputs, fill=fill: torch.nn.functional.pad(inputs, (0, 3), value=fill)
    for masked in (False, True):
        row.change["text_mask"] = lambda inputs, value=not masked: torch.nn.functional.pad(inputs, (0, 3), value=value)
        with torch.no_grad():
            logits = decoder(*row.inputs(), harness.empty_past(tiny))[0][0]
        assert (harness.difference(logits, right) < CLOSE) == masked
