"""The main job on the bundled model: the bundle answers as Hugging Face and as the compressed torch modules do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from luvc_export import load_bundle
from luvc_export.bundle.folder import Bundle
from luvc_export.core.token_layout import TokenLayout, arrange
from luvc_export.demo import CHECKPOINT
from luvc_export.demo.questions import KINDS, GlyphCase, cases
from luvc_export.export.families import find
from luvc_export.export.families.base import Normalise
from luvc_export.runtime.session import Session

PICTURES = 4
#: Of which every prompt is computed by three runtimes: a wrong graph differs in all of them.
TORCH_PICTURES = 2
LONGEST = 8
#: fp32 with sums in another order, through six layers; logits spread over tens.
TOLERANCE = 1e-4
#: Relative score gap at place K below which fp32 rounding may swap the last kept token.
TIE = 1e-5


@lru_cache(maxsize=1)
def model() -> Any:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


@lru_cache(maxsize=1)
def pictures() -> list[list[GlyphCase]]:
    """Held-out questions, one of each kind a picture; those about the same pictures together."""
    asked = cases("heldout", PICTURES * len(KINDS))
    return [list(group) for _, group in groupby(asked, key=lambda case: (case.picture, len(case.images)))]


def greedy(session: Session, token_ids: Sequence[int], seen: Any) -> list[int]:
    """The whole answer in tokens, as ``Session.generate`` gives it; the pictures were seen before."""
    step, ends = session.default.run(token_ids, seen), session.bundle.manifest.prompt.eos_token_ids
    ids: list[int] = []
    while len(ids) < LONGEST:
        ids.append(int(step.logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
        step = session.default.run(ids[-1:], state=step.state)
    return ids


def shown(session: Session, asked: Sequence[GlyphCase]) -> Any:
    """What the vision graph sees of the pictures that all of ``asked`` are about."""
    return session.default.encode_images(session.prepare(asked[0].images, asked[0].prompt).images)


def tokens(session: Session, asked: Sequence[GlyphCase]) -> list[Sequence[int]]:
    """Token ids of each prompt, a placeholder per picture: the same for every plan of a bundle."""
    return [session.prepare(case.images, case.prompt).token_ids for case in asked]


def pixels(images: Sequence[NDArray[np.uint8]]) -> Any:
    """The pictures as transformers' own processor makes them, by the model's names."""
    processor = Qwen2VLImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 255)
    return processor(list(images), return_tensors="pt")


def widened(session: Session, token_ids: Sequence[int]) -> list[int]:
    """A prompt as transformers has it: a placeholder per visual token."""
    image, units = session.bundle.manifest.prompt.image_token_id, session.plan.units
    return [t for token in token_ids for t in [token] * (units if token == image else 1)]


def after_pictures(images: Sequence[NDArray[np.uint8]], image: int, rows: Sequence[list[int]]) -> list[torch.Tensor]:
    """Logits [T, vocab] that transformers gives to each row after its last visual token.

    All rows begin with the same pictures, which it sees once and then has in its cache. Padding is on the right.
    """
    start = len(rows[0]) - rows[0][::-1].index(image)
    assert all(row[:start] == rows[0][:start] for row in rows)
    first, width = torch.tensor([rows[0][:start]]), max(map(len, rows)) - start
    rest = torch.tensor([row[start:] + [0] * (start + width - len(row)) for row in rows])
    with torch.no_grad():
        seen = model()(input_ids=first, mm_token_type_ids=(first == image).int(), **pixels(images), use_cache=True)
        seen.past_key_values.batch_repeat_interleave(len(rows))
        places = (torch.arange(start, start + width) + model().model.rope_deltas).expand(3, len(rows), -1)
        logits = model()(input_ids=rest, past_key_values=seen.past_key_values, position_ids=places).logits
    return [scores[: len(row) - start] for row, scores in zip(rows, logits, strict=True)]


def departures(
    session: Session, asked: Sequence[GlyphCase], prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[str]:
    """Prompts to which transformers does not greedily give the tokens of ``answers``; all about the same pictures.

    Answers are appended to their ``prompts``: each of their tokens must have the highest logit.
    """
    rows = [[*widened(session, prompt), *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    logits = after_pictures(asked[0].images, session.bundle.manifest.prompt.image_token_id, rows)
    departed = []
    for case, answer, scores in zip(asked, answers, logits, strict=True):
        if scores[-len(answer) - 1 : -1].argmax(-1).tolist() != list(answer):
            departed.append(case.prompt)
    return departed


def test_uncompressed_answers_equal_hugging_face_and_compressed_ones_are_reported(demo_bundle: Bundle) -> None:
    sessions = {
        plan: load_bundle(demo_bundle.folder, "cpu", plan=plan, threads=1) for plan in ("none", "even", "thirds")
    }
    right = dict.fromkeys(sessions, 0)
    departed, asked = [], 0
    for group in pictures():
        asked += len(group)
        prompts, seen = tokens(sessions["none"], group), dict[str, Any]()
        for plan, session in sessions.items():
            vision = demo_bundle.entry(plan).vision
            if vision not in seen:  # plans that merge alike share the graph
                seen[vision] = shown(session, group)
            answers = [greedy(session, prompt, seen[vision]) for prompt in prompts]
            texts = [session.encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
            right[plan] += sum(text == case.answer for text, case in zip(texts, group, strict=True))
            departed += departures(session, group, prompts, answers) if plan == "none" else []
    print(f"right of {asked} held-out questions: {right}; other than transformers: {len(departed)}")
    assert departed == []
    assert asked >= 56 and right["none"] > 0.95 * asked
    assert right["even"] > 0.95 * asked and right["thirds"] > 0.9 * asked


def test_departures_notices_another_answer(demo_bundle: Bundle) -> None:
    session = load_bundle(demo_bundle.folder, "cpu", plan="none", threads=1)
    group = pictures()[0][:3]
    prompts, seen = tokens(session, group), shown(session, group)
    answers = [greedy(session, prompt, seen) for prompt in prompts]
    answers[1] = answers[0]
    assert departures(session, group, prompts, answers) == [group[1].prompt]


@pytest.mark.parametrize("pictures_of_a_question", [1, 2])
def test_transformers_says_the_same_of_a_whole_prompt_as_after_its_cached_pictures(
    demo_bundle: Bundle, pictures_of_a_question: int
) -> None:
    session, image = Session(demo_bundle, plan="none", threads=1), demo_bundle.manifest.prompt.image_token_id
    group = next(group for group in pictures() if len(group[0].images) == pictures_of_a_question)[:4]
    rows = [widened(session, prompt) for prompt in tokens(session, group)]
    for row, logits in zip(rows, after_pictures(group[0].images, image, rows), strict=True):
        ids = torch.tensor([row])
        with torch.no_grad():
            whole = model()(input_ids=ids, mm_token_type_ids=(ids == image).int(), **pixels(group[0].images)).logits[0]
        assert len(logits) < len(row) and whole.std() > 1
        torch.testing.assert_close(logits, whole[-len(logits) :], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("plan", ["even", "thirds"])
def test_the_bundle_equals_the_compressed_torch_modules(demo_bundle: Bundle, plan: str) -> None:
    session = load_bundle(demo_bundle.folder, "cpu", plan=plan, threads=1)
    entry, shape = demo_bundle.entry(plan), demo_bundle.manifest.decoder
    debug = Session(demo_bundle, plan=plan, threads=1, debug=True)
    family = find("qwen2_5_vl", "test")
    vision = family.vision(model(), entry.plan, Normalise(1 / 255, [0.5] * 3, [0.5] * 3))
    decoder = family.decoder(model(), entry.plan)
    empty = [torch.zeros(1, shape.kv_heads, 0, shape.head_dim)] * (2 * entry.plan.layers)
    asked = ties = 0
    for group in [group for group in pictures() if len(group[0].images) == 1][:TORCH_PICTURES]:
        images = session.prepare(group[0].images, group[0].prompt).images
        seen = session.default.encode_images(images)
        with torch.no_grad():
            embeds, positions, merged = vision(torch.from_numpy(images))
        np.testing.assert_allclose(seen.embeds, embeds.numpy(), atol=TOLERANCE)
        assert seen.merged_into is not None and np.array_equal(seen.merged_into, merged.numpy())
        for case in group:
            ids = list(session.prepare(case.images, case.prompt).token_ids)
            image = demo_bundle.manifest.prompt.image_token_id
            placed = arrange(ids, image, positions.numpy(), entry.plan.grid, "mrope")
            mask, rows = torch.ones(1, len(ids) - 1, dtype=torch.bool), torch.arange(len(ids) - 1)[None]
            with torch.no_grad():
                arrays = map(torch.from_numpy, decoder_arrays(placed))
                logits, _, kept = decoder(embeds[None], *arrays, mask, rows, empty)
            step = session.default.run(ids, seen, all_logits=True)
            layers = [layer for layer, _, keep in entry.plan.prunes if keep]
            by_layer = {layer: index[0].numpy() for layer, index in zip(layers, kept, strict=True)}
            same = all(np.array_equal(step.kept[layer], by_layer[layer]) for layer in layers)
            if not same:
                assert tie(decoder, embeds, placed, mask, empty), case.prompt
                ties += 1
            forced = debug.default.run(ids, seen, all_logits=True, forced=by_layer)
            np.testing.assert_allclose(forced.logits, logits.numpy(), atol=TOLERANCE)
            assert same is False or int(step.logits[0, -1].argmax()) == int(logits[0, -1].argmax())
            asked += 1
    print(f"{asked} questions: kept sets equal but for {ties} ties")
    assert asked >= 26 and ties <= asked // 20


def decoder_arrays(placed: TokenLayout) -> tuple[NDArray[Any], ...]:
    """The layout's arrays in the order of the decoder's inputs."""
    return placed.input_ids, placed.visual_position_ids, placed.position_ids, placed.visual_order, placed.order


def tie(decoder: Any, embeds: torch.Tensor, placed: Any, mask: torch.Tensor, empty: list[torch.Tensor]) -> bool:
    """Whether some prune's scores at places K and K + 1 are closer than ``TIE``."""
    gaps: list[float] = []
    plain = decoder.score
    budgets = iter([keep for _, _, keep in decoder.plan.prunes if keep])

    def spy(score_input: Any) -> torch.Tensor:
        score = plain(score_input)
        keep = next(budgets)
        best = score[0, 0].sort(descending=True).values
        gaps.append(float((best[keep - 1] - best[keep]) / best[keep - 1].abs()))
        return score

    decoder.score = spy
    try:
        arrays = decoder_arrays(placed)
        with torch.no_grad():
            decoder(embeds[None], *map(torch.from_numpy, arrays), mask, torch.zeros(1, 1, dtype=torch.int64), empty)
    finally:
        decoder.score = plain
    return min(gaps) <= TIE


def test_a_forced_swap_moves_the_logits(demo_bundle: Bundle) -> None:
    debug = Session(demo_bundle, plan="thirds", threads=1, debug=True)
    case = pictures()[0][0]
    request = debug.prepare(case.images, case.prompt)
    seen = debug.default.encode_images(request.images)
    plain = load_bundle(demo_bundle.folder, "cpu", plan="thirds", threads=1).default.run(request.token_ids, seen)
    kept = {layer: index.copy() for layer, index in plain.kept.items()}
    last = max(kept)
    dropped = sorted(set(kept[min(kept)][0].tolist()) - set(kept[last][0].tolist()))
    kept[last][0] = sorted([*kept[last][0][1:].tolist(), dropped[0]])
    swapped = debug.default.run(request.token_ids, seen, forced=kept)
    assert np.abs(swapped.logits - plain.logits).max() > 10 * TOLERANCE


@pytest.mark.parametrize("plan", ["none", "even", "thirds"])
def test_cache_lengths_are_the_budgets(demo_bundle: Bundle, plan: str) -> None:
    session = load_bundle(demo_bundle.folder, "cpu", plan=plan, threads=1)
    case = pictures()[0][0]
    result = session.generate(case.images, case.prompt, max_new_tokens=3)
    assert result.visual_tokens == session.plan.keep
