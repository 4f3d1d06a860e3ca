"""The main job on the bundled model: the bundle answers as Hugging Face and as the compressed torch modules do."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen2_5_VLForConditionalGeneration

from luvc_export import load_bundle
from luvc_export.bundle import Bundle
from luvc_export.demo import CHECKPOINT
from luvc_export.demo.glyphs import Case, cases
from luvc_export.export.families import find
from luvc_export.export.families.base import Normalise
from luvc_export.layout import Layout, arrange
from luvc_export.runtime.session import Session

QUESTIONS = 504
TORCH_QUESTIONS = 216
#: fp32 with sums in another order, through eight layers; logits spread over tens.
TOLERANCE = 1e-4
#: Relative score gap at place K below which fp32 rounding may swap the last kept token.
TIE = 1e-5


@lru_cache(maxsize=1)
def model() -> Any:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


@lru_cache(maxsize=1)
def pictures() -> list[list[Case]]:
    """Held-out questions, picture by picture."""
    asked = cases("heldout", QUESTIONS)
    return [list(group) for _, group in groupby(asked, key=lambda case: case.picture)]


def picked(session: Session, logits: NDArray[np.float32]) -> str:
    return session.encoder.tokenizer.decode([int(logits[0, -1].argmax())])


def answers(session: Session, questions: list[list[Case]]) -> list[tuple[str, str]]:
    """(answer, right) of every question; a picture's vision graph runs once."""
    rows = []
    for group in questions:
        seen = session.see(session.prepare(group[0].images[0], group[0].prompt).images)
        for case in group:
            ids = session.prepare(group[0].images[0], case.prompt).token_ids
            rows.append((picked(session, session.run(ids, seen).logits), case.answer))
    return rows


def hugging_face(session: Session, questions: list[list[Case]]) -> list[str]:
    from transformers import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, rescale_factor=1 / 255)
    found = []
    for group in questions:
        vision = processor([group[0].images[0]], return_tensors="pt")
        prompts = [session.prepare(group[0].images[0], case.prompt).token_ids for case in group]
        ids = torch.tensor(
            [[t for token in ids for t in ([token] * 81 if token == 120 else [token])] for ids in prompts]
        )
        with torch.no_grad():
            logits = model()(
                input_ids=ids,
                mm_token_type_ids=(ids == 120).int(),
                pixel_values=vision["pixel_values"].repeat(len(ids), 1),
                image_grid_thw=vision["image_grid_thw"].repeat(len(ids), 1),
            ).logits[:, -1]
        found += [session.encoder.tokenizer.decode([int(row.argmax())]) for row in logits]
    return found


def test_uncompressed_answers_equal_hugging_face_and_compressed_ones_are_reported(demo_bundle: Bundle) -> None:
    accuracy = {}
    rows = {}
    for plan in ("none", "thirds"):
        rows[plan] = answers(load_bundle(demo_bundle.folder, plan=plan, threads=1), pictures())
        accuracy[plan] = sum(a == b for a, b in rows[plan]) / QUESTIONS
    reference = hugging_face(load_bundle(demo_bundle.folder, plan="none", threads=1), pictures())
    assert [answer for answer, _ in rows["none"]] == reference
    assert accuracy["none"] > 0.95
    print(f"held-out accuracy on {QUESTIONS} questions: none {accuracy['none']:.4f}, thirds {accuracy['thirds']:.4f}")
    assert accuracy["thirds"] > 0.8


def test_the_bundle_equals_the_compressed_torch_modules(demo_bundle: Bundle) -> None:
    session = load_bundle(demo_bundle.folder, plan="thirds", threads=1)
    entry = demo_bundle.entry("thirds")
    debug = Session(demo_bundle, plan="thirds", threads=1, debug=True)
    family = find("qwen2_5_vl", "test")
    vision = family.vision(model(), entry.plan, Normalise(1 / 255, [0.5] * 3, [0.5] * 3))
    decoder = family.decoder(model(), entry.plan)
    empty = [torch.zeros(1, 2, 0, 32)] * (2 * entry.plan.layers)
    asked = ties = 0
    for group in pictures()[: TORCH_QUESTIONS // 18]:
        images = session.prepare(group[0].images[0], group[0].prompt).images
        seen = session.see(images)
        with torch.no_grad():
            embeds, positions, merged = vision(torch.from_numpy(images))
        np.testing.assert_allclose(seen.embeds, embeds.numpy(), atol=TOLERANCE)
        assert seen.merged_into is not None and np.array_equal(seen.merged_into, merged.numpy())
        for case in group:
            ids = list(session.prepare(group[0].images[0], case.prompt).token_ids)
            placed = arrange(ids, 120, positions.numpy(), entry.plan.grid, "mrope")
            arrays = (
                placed.input_ids,
                placed.visual_position_ids,
                placed.position_ids,
                placed.visual_order,
                placed.order,
            )
            mask, rows = torch.ones(1, len(ids) - 1, dtype=torch.bool), torch.arange(len(ids) - 1)[None]
            with torch.no_grad():
                logits, _, kept = decoder(embeds[None], *map(torch.from_numpy, arrays), mask, rows, empty)
            step = session.run(ids, seen, all_logits=True)
            layers = [layer for layer, _, keep in entry.plan.prunes if keep]
            by_layer = {layer: index[0].numpy() for layer, index in zip(layers, kept, strict=True)}
            same = all(np.array_equal(step.kept[layer], by_layer[layer]) for layer in layers)
            if not same:
                assert tie(decoder, embeds, placed, mask, empty), case.prompt
                ties += 1
            forced = debug.run(ids, seen, all_logits=True, forced=by_layer)
            np.testing.assert_allclose(forced.logits, logits.numpy(), atol=TOLERANCE)
            assert same is False or picked(session, step.logits) == picked(session, logits.numpy())
            asked += 1
    print(f"{asked} questions: kept sets equal but for {ties} ties")
    assert asked >= 200 and ties <= asked // 20


def decoder_arrays(placed: Layout) -> tuple[NDArray[Any], ...]:
    """The layout's arrays in the order of the decoder's inputs."""
    return placed.input_ids, placed.visual_position_ids, placed.position_ids, placed.visual_order, placed.order


def tie(decoder: Any, embeds: torch.Tensor, placed: Any, mask: torch.Tensor, empty: list[torch.Tensor]) -> bool:
    """Whether some prune's scores at places K and K + 1 are closer than ``TIE``."""
    gaps: list[float] = []
    plain = decoder.score
    budgets = iter([keep for _, _, keep in decoder.plan.prunes if keep])

    def spy(given: Any) -> torch.Tensor:
        score = plain(given)
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
    group = pictures()[0]
    request = debug.prepare(group[0].images[0], group[0].prompt)
    seen = debug.see(request.images)
    plain = load_bundle(demo_bundle.folder, plan="thirds", threads=1).run(request.token_ids, seen)
    kept = {layer: index.copy() for layer, index in plain.kept.items()}
    last = max(kept)
    dropped = sorted(set(kept[min(kept)][0].tolist()) - set(kept[last][0].tolist()))
    kept[last][0] = sorted([*kept[last][0][1:].tolist(), dropped[0]])
    swapped = debug.run(request.token_ids, seen, forced=kept)
    assert np.abs(swapped.logits - plain.logits).max() > 10 * TOLERANCE


@pytest.mark.parametrize("plan", ["none", "thirds"])
def test_cache_lengths_are_the_budgets(demo_bundle: Bundle, plan: str) -> None:
    session = load_bundle(demo_bundle.folder, plan=plan, threads=1)
    result = session.generate(pictures()[0][0].images[0], "?7", max_new_tokens=3)
    assert result.visual_tokens == session.plan.keep
