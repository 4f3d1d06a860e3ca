"""Contexts longer than a sliding window, where layers look back by each key's own place: Gemma 3 and 4."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, Case, build, case
from family_questions import SLIDING, WINDOW, exportable
from flat_plans import replan
from slow_cases import slow_but
from test_family_answers import chat, pictures, session, theirs
from test_family_turns import first_turn, turns
from torch_backend import TorchBackend

from luvc_export.bundle.folder import Bundle
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import PLACE
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.options import Options, check_size
from luvc_export.runtime.session import Session

FAMILIES = SLIDING
Bundles = Callable[[str], Bundle]
#: What stands in every prompt below is longer than the window.
LONG = 40


@cache
def sliding(name: str, window: int = WINDOW) -> Case:
    """The tiny model with a short window: fewer places than one of its pictures has."""
    family = case(name).family
    config = family.tiny_config().to_dict()
    text = {**config["text_config"], "sliding_window": window, "max_position_embeddings": 2048}
    text.pop("per_layer_config", None)
    if name == "gemma4":
        kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
        text |= {"global_head_dim": 32, "num_hidden_layers": 5, "layer_types": kinds}
    vision = {**config["vision_config"], "num_hidden_layers": 1}  # which has no window
    return build(family, type(family.tiny_config())(**{**config, "text_config": text, "vision_config": vision}))


def pruned(tiny: Case) -> Plan:
    """Half of the tokens after the first layer, none in the last with a cache of its own where others follow."""
    units, cached = tiny.plan.units, tiny.plan.cached
    keep = (units, *[units // 2] * (cached - 1), *[0] * (tiny.plan.layers - cached))
    return replan(tiny.plan, keep=keep)


def run_of(tiny: Case, plan: Plan, images: int, words: int = LONG) -> tuple[harness.Run, list[int]]:
    ids = [*tiny.prompt(images), *range(5, 5 + words)]
    return harness.lay_out(tiny, plan, ids, *harness.encode_images(tiny, plan, tiny.images(images))[:2]), ids


@pytest.mark.parametrize(("name", "window"), [("gemma3", 8), ("gemma4", 16)])
def test_logits_and_tokens_past_the_window_are_those_of_transformers(name: str, window: int) -> None:
    tiny = sliding(name, window)
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    for images in (0, 2):
        run, ids = run_of(tiny, tiny.plan, images)
        inputs = harness.reference(tiny, ids, tiny.images(images))
        assert (
            harness.difference(harness.logits(tiny, decoder, run), harness.reference_logits(tiny, inputs)) < TOLERANCE
        )
        assert harness.greedy(tiny, decoder, run) == harness.reference_greedy(tiny, inputs)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_window_that_is_forgotten_moves_the_logits(name: str) -> None:
    tiny = sliding(name)
    decoder: Any = tiny.family.decoder(tiny.model, tiny.plan)
    run, _ = run_of(tiny, tiny.plan, 1)
    right = harness.logits(tiny, decoder, run)
    decoder.window = 10**6
    assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


@pytest.mark.parametrize("name", FAMILIES)
def test_prunes_carry_the_places_of_what_they_keep(name: str) -> None:
    """A pruned decode step sees what its places say; other places of the same rows show others."""
    tiny = sliding(name)
    plan, decoder = pruned(tiny), tiny.family.decoder(tiny.model, pruned(tiny))
    kept = tiny.family.decoder_shape(tiny.config).kept
    run, _ = run_of(tiny, plan, 1, words=4)
    with torch.no_grad():
        _, past, chosen = decoder(*run.inputs(), harness.empty_past(tiny))
        inputs = harness.next_inputs(run, decoder, 7, run.layout.input_ids.shape[1] + 1)
        right = decoder(*inputs, past)[0]
        at = next(index for index, state in enumerate(kept) if state.name == PLACE and state.layer >= 2)
        visual = torch.from_numpy(run.layout.visual_order)[0][chosen[0][0, 0]]
        assert torch.equal(past[at][0, : len(visual)], visual)
        assert torch.equal(past[at][0, len(visual) :], torch.from_numpy(run.layout.order)[0])
        shifted = [value - 10 if state.name == PLACE else value for state, value in zip(kept, past, strict=True)]
        assert harness.difference(decoder(*inputs, shifted)[0], right) > SABOTAGE


@pytest.mark.parametrize("name", slow_but(["gemma3"], FAMILIES))
def test_rows_of_a_padded_batch_equal_their_own(name: str, bundles: Bundles) -> None:
    """One row is longer than the window, one is not; padding sees something and nobody sees it."""
    tiny = exportable(name)
    ours = Session(bundles(name), TorchBackend(tiny, tiny.thirds))
    shown = pictures(tiny, 2)
    asked = [{"image": shown[0], "prompt": "Hi"}, {"image": shown[1], "prompt": "word " * 9}]
    rows = ours.generate_batch(asked, max_new_tokens=8, greedy=True)
    for row, ask in zip(rows, asked, strict=True):
        assert row.token_ids == ours.generate(**ask, max_new_tokens=8, greedy=True).token_ids


@pytest.mark.parametrize("name", FAMILIES)
def test_a_second_turn_past_the_window(name: str, tmp_path: Path) -> None:
    """From the caches as from the whole chat, and with plan none as transformers."""
    tiny = sliding(name)
    ours, shown = session(tiny, tmp_path, tiny.plan), pictures(tiny, 2)
    first, answer = first_turn(ours, shown)
    second = ours.generate(shown, messages=turns(answer), after=first, max_new_tokens=8)
    assert second.reused > WINDOW
    assert list(second.token_ids) == theirs(tiny, turns(answer), shown)[1][:8]


def test_a_text_that_fits_the_window_keeps_no_places(tmp_path: Path) -> None:
    """As bundles of before: a context as long as the window. A longer text has places."""
    tiny = sliding("gemma3", 64)
    config = open_checkpoint(str(family_chat.save(tiny, tmp_path))).config
    short, long = (tiny.family.decoder_shape(tiny.family.bounded(config, text)) for text in (64, 65))
    assert (short.context, short.states) == (64, ()) and long.context == 2048
    assert tiny.family.bounded(tiny.config, 64, 63) is not tiny.config
    assert tiny.family.bounded(tiny.config, 64, 64) is tiny.config, "a picture that fills the window leaves no text"
    assert {state.layer for state in long.states} == {0, 2} and {state.name for state in long.states} == {PLACE}
    config.text_config.rope_parameters["full_attention"]["rope_type"] = "yarn"
    assert tiny.family.bounded(config, 64) is config
    with pytest.raises(UsageError, match=r"1 to 2048"):
        check_size(open_checkpoint(str(tmp_path)), {"none": tiny.plan}, Options(tiny.size, text_capacity=4096))


@pytest.mark.parametrize(
    ("name", "backend"), slow_but(["gemma3"], [("gemma3", "cpu"), ("gemma4", "cpu"), ("gemma3", "openvino")])
)
def test_graphs_answer_as_torch_does(name: str, backend: str, bundles: Bundles) -> None:
    """A first turn, one from its caches, a batch, and text alone, each longer than the window."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    tiny, bundle = exportable(name), bundles(name)
    ours = Session(bundle, backend, threads=1, arithmetic="fp32")
    torch_, shown = Session(bundle, TorchBackend(tiny, tiny.thirds)), pictures(tiny, 2)
    assert {state.name for state in bundle.manifest.decoder.states} == {PLACE}
    answer = "ok " * 8
    for messages, seen in ((turns(answer), shown), (chat(0), [])):
        answer, expected = (one.generate(seen, messages=messages, max_new_tokens=8) for one in (ours, torch_))
        assert answer.token_ids == expected.token_ids
        assert answer.selection.kept.keys() == expected.selection.kept.keys()
        for layer, kept in expected.selection.kept.items():
            assert np.array_equal(answer.selection.kept[layer], kept)
    first = [one.generate(shown[:1], messages=chat(1), max_new_tokens=3, greedy=True) for one in (ours, torch_)]
    assert first[0].token_ids == first[1].token_ids
    rows = [{"image": shown[0], "prompt": "Hi"}, {"image": shown[1], "prompt": "word " * 9}]
    batch = [one.generate_batch(rows, max_new_tokens=6, greedy=True) for one in (ours, torch_)]
    assert [row.token_ids for row in batch[0]] == [row.token_ids for row in batch[1]]
