"""Rows in logical order: what a sort by order, padding last, would give."""

from __future__ import annotations

import torch

from luvc_export.export.llm.states.logical_order import LogicalOrder


def some_rows(generator: torch.Generator, pictures: int, words: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Orders of [visual | text] rows of a prompt with gaps where tokens were dropped, and which text is real."""
    places = torch.randperm(pictures * 2 + words, generator=generator)
    visual, text = places[:pictures].sort().values, places[pictures : pictures + words].sort().values
    far = torch.full((padding,), 2**40)
    real = torch.arange(words + padding) < words
    return torch.cat([visual, text, far])[None], real[None]


def test_rows_are_those_of_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    for pictures, words, padding in [(0, 1, 0), (0, 5, 2), (7, 1, 0), (6, 9, 0), (5, 4, 3), (9, 2, 1)]:
        order, real = some_rows(generator, pictures, words, padding)
        text = order[:, pictures:]
        mask = torch.cat([torch.ones(1, 4, dtype=torch.bool), real], 1)
        logical = LogicalOrder(order, pictures, text, mask)
        assert torch.equal(logical.rows, order.argsort(dim=1, stable=True))
        rows = torch.randn(1, order.shape[1], 3, generator=generator)
        assert torch.equal(logical.back(logical.arrange(rows)), rows)
        assert logical.count.tolist() == [[pictures + words]]
        before = torch.randn(1, 2, 3, generator=generator)
        held = torch.cat([before, logical.arrange(rows)], 1)
        assert torch.equal(logical.last(held, 2), held[:, pictures + words : pictures + words + 2])


def test_rows_of_a_batch_have_orders_of_their_own() -> None:
    order = torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1]])
    mask = torch.tensor([[True, True], [True, False]])
    logical = LogicalOrder(order, 2, order[:, 2:], mask)
    assert logical.rows.tolist() == [[0, 1, 2, 3], [2, 0, 1, 3]] and logical.count.tolist() == [[4], [3]]
