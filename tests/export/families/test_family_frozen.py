"""Frozen layers (``kv_only``): families equal their transformers models whose layers hand visual rows through or on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import family_harness as harness
import pytest
import torch
from family_harness import MADE_HERE, SABOTAGE, TOLERANCE, Case, case
from flat_plans import replan
from torch import Tensor

from luvc_export.core.plan import Plan

FAMILIES = MADE_HERE


@contextmanager
def handed_through(tiny: Case, frozen: tuple[int, ...], visual: Tensor, sampled: int, turns: int) -> Iterator[None]:
    """In transformers' own layers ``frozen``, rows ``visual`` (bool [S], of two images) leave as they entered.

    Where some are ``sampled``, all rows of an image move by the mean of what the layer adds to these. With ``turns``
    those of one turn leave as they are computed, and every other one moves by a mean of theirs, by cosines of what
    entered less the mean of what entered there.
    """
    spans = visual.nonzero()[:, 0].unflatten(0, (2, -1))
    some = spans[:, [int((place + 0.5) * spans.shape[1] / sampled) for place in range(sampled)]]

    def put_back(number: int, layer: Any, args: Any, kwargs: Any, out: Any) -> Any:
        entered = args[0] if args else kwargs["hidden_states"]
        left = out[0] if isinstance(out, tuple) else out
        rows = torch.where(visual[None, :, None], entered, left)
        for own, few in zip(spans, some, strict=True) if sampled else ():
            rows[:, own] += (left - entered)[:, few].mean(1, keepdim=True)
        for own in spans if turns else ():
            work = own[number % turns :: turns]
            apart = entered[0, own] - entered[0, work].mean(0)
            alike = torch.cosine_similarity(apart[:, None], apart[None, number % turns :: turns], 2)
            rows[0, own] += (alike / 0.15).softmax(1) @ (left - entered)[0, work]
            rows[0, work] = left[0, work]
        return (rows, *out[1:]) if isinstance(out, tuple) else rows

    layers: Any = tiny.family.decoder(tiny.model, tiny.plan).layers  # transformers' own modules
    hooks = [layers[each].register_forward_hook(partial(put_back, each), with_kwargs=True) for each in frozen]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def both(
    name: str,
    frozen: tuple[int, ...],
    reference: tuple[int, ...],
    ours: tuple[int, int] = (0, 0),
    theirs: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a prompt of two images and three forced tokens: prefill, decoded one by one; transformers' of all.

    ``ours`` and ``theirs`` are what is (sampled, in turns).
    """
    tiny = case(name)
    plan: Plan = replan(tiny.plan, kv_only=frozen, sampled=ours[0], turns=ours[1])
    ids, images, forced = tiny.prompt(2), tiny.images(2), [5, 17, 42]
    of_transformers = harness.reference(tiny, ids + forced, images)
    if tiny.family.prefix(tiny.config):
        of_transformers["token_type_ids"][:, -len(forced) :] = 1  # of the answer, which is causal
    visual = of_transformers["input_ids"][0] == tiny.family.image_token_id(tiny.config)
    starts = torch.nonzero(visual & ~visual.roll(1))[:, 0]  # a row's end after a picture is text for us
    place = torch.arange(len(visual)) - starts[:, None]
    visual &= torch.isin(place, harness.units(tiny)).any(0)
    with handed_through(tiny, reference, visual, *theirs):
        expected = harness.reference_logits(tiny, of_transformers)
    decoder = tiny.family.decoder(tiny.model, plan)
    run = harness.lay_out(tiny, plan, ids, *harness.encode_images(tiny, plan, images)[:2])
    known = harness.spoken(tiny, run)
    with torch.no_grad():
        out, past, _ = decoder(*run.inputs(), harness.empty_past(tiny))
        rows = harness.cached_rows(tiny, past)
        assert rows == {layer: plan.cache_rows(2, run.layout.input_ids.shape[1])[layer] for layer in rows}
        steps = []
        for step, token in enumerate(forced):
            inputs = harness.next_inputs(run, decoder, token, run.layout.input_ids.shape[1] + step + 1)
            logits, past, _ = decoder(*inputs, past)
            steps.append(logits[0])
    return out[0][known], torch.cat(steps), expected


@pytest.mark.parametrize("some", [(0, 0), (5, 0), (0, 3)], ids=["still", "sampled", "turns"])
@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_and_decode_equal_the_reference(name: str, some: tuple[int, int]) -> None:
    tiny = case(name)
    keyless = tiny.family.decoder_shape(tiny.config).keyless
    frozen = tuple(n for n in range(min(tiny.plan.cached, tiny.plan.layers - 1)) if n not in keyless)[-2:]
    prefill, decoded, expected = both(name, frozen, frozen, some, some)
    assert expected.std() >= 1
    assert harness.difference(torch.cat([prefill, decoded]), expected) < TOLERANCE


def test_another_layer_frozen_is_another_model() -> None:
    for ours, theirs, *some in (
        ((0,), ()),
        ((), (0,)),
        ((0,), (1,)),
        ((0,), (0,), (5, 0), (0, 0)),
        ((0,), (0,), (0, 3), (0, 0)),
        ((0,), (0,), (0, 3), (0, 2)),
    ):
        prefill, decoded, expected = both("qwen2_5_vl", ours, theirs, *some)
        assert harness.difference(torch.cat([prefill, decoded]), expected) > SABOTAGE
