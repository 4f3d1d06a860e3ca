"""A window of clips: rebuilt it answers as a fresh one, evicted it keeps every other row as it was, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_harness import case
from flat_plans import replan
from test_family_answers import session
from torch_backend import TorchBackend

from luvc_export.core.shapes import PLACE, ROWS, State
from luvc_export.errors import UsageError
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.model import Capabilities
from luvc_export.runtime.session import Session
from luvc_export.runtime.streams import clip_window
from luvc_export.runtime.streams.clip_window import ClipWindow, without

ASK, TOKENS = "What then?", 4


class Packing(TorchBackend):
    """Whose caches the host takes apart."""

    capabilities = Capabilities(host_caches=True)


def packing(tmp_path: Path, name: str = "qwen2_5_vl", **changes: Any) -> tuple[Session, list[list[Any]]]:
    """A session, and four clips of four frames."""
    tiny = case(name)
    plan = replan(tiny.plan, **changes) if changes else tiny.plan
    ours = session(tiny, tmp_path, plan, video=True)
    ours.default.backend = ours.default.graphs.backend = Packing(tiny, plan)
    shown = [image[0].numpy() for image in tiny.images(16)]
    return ours, [shown[at : at + 4] for at in (0, 4, 8, 12)]


def fresh(ours: Session, clips: Sequence[Any]) -> tuple[int, ...]:
    shown: list[dict[str, Any]] = [{"type": "video", "video": clip} for clip in clips]
    messages = [{"role": "user", "content": [*shown, {"type": "text", "text": ASK}]}]
    return ours.generate(messages=messages, max_new_tokens=TOKENS).token_ids


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm"])
def test_a_rebuilt_window_answers_as_a_fresh_one(name: str, tmp_path: Path) -> None:
    ours, clips = packing(tmp_path, name)
    window = ClipWindow(ours, 2)
    for newest, clip in enumerate(clips):
        window.show(clip)
        answer = window.ask(ASK, max_new_tokens=TOKENS)
        assert answer.token_ids == fresh(ours, clips[max(0, newest - 1) : newest + 1])
        assert answer.reused > 0 and len(window) == min(2, newest + 1)


def test_an_evicted_clip_takes_its_rows_along_and_nothing_else(tmp_path: Path) -> None:
    units = case("qwen2_5_vl").plan.units
    layers = case("qwen2_5_vl").plan.layers
    ours, clips = packing(tmp_path, keep=(units, *[units // 2] * (layers - 1)), last_layer="full", score="residual")
    window, longer = ClipWindow(ours, 2, "evict"), ClipWindow(ours, 3, "evict")
    for clip in clips[:3]:
        window.show(clip)
        longer.show(clip)
    backend = ours.backend
    assert isinstance(backend, Packing) and window.state is not None and longer.state is not None
    assert window.state.next_position == longer.state.next_position
    header, held = len(window._written.header), window._held[0]
    rows = ours.plan.cache_rows(2, held.text)  # a clip of four frames is two images
    for kind, short, long in zip(backend.states, *(one.state.cache.arrays() for one in (window, longer)), strict=True):
        assert kind.axis == 2 and long.shape[2] - short.shape[2] == rows[kind.layer]
        first = header + rows[kind.layer]
        assert np.array_equal(short[:, :, :header], long[:, :, :header])
        assert np.array_equal(short[:, :, header:first], long[:, :, first : first + rows[kind.layer]])
    assert longer.state.past_text - window.state.past_text == held.text
    assert window.ask(ASK, max_new_tokens=TOKENS).token_ids and len(window) == 2


def test_a_clip_taken_out_leaves_what_never_saw_it(tmp_path: Path) -> None:
    """The newest leaves: nothing has seen it, so the state is that of before."""
    ours, clips = packing(tmp_path)
    window = ClipWindow(ours, 3, "evict")
    window.show(clips[0])
    before = window.state
    window.show(clips[1])
    backend = ours.backend
    assert isinstance(backend, Packing) and before is not None and window.state is not None
    rows = before.cache.lengths[0]
    state = without(ours.default, window.state, rows, window._held[1].text, 2)
    assert state.past_text == before.past_text and state.next_position > before.next_position
    for one, other in zip(state.cache.arrays(), before.cache.arrays(), strict=True):
        assert np.array_equal(one, other)


def test_positions_that_reach_the_context_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, clips = packing(tmp_path)
    window = ClipWindow(ours, 1, "evict")
    for clip in 4 * clips:
        window.show(clip)
    assert window.state is not None
    far = window.state.next_position
    manifest = ours.bundle.manifest
    short = replace(manifest, decoder=replace(manifest.decoder, context=far))
    monkeypatch.setattr(ours.default, "bundle", replace(ours.bundle, manifest=short))
    answer = window.ask(ASK, max_new_tokens=TOKENS)
    assert window.state.next_position < far
    monkeypatch.undo()
    assert answer.token_ids == fresh(ours, clips[-1:])


def test_what_cannot_leave_is_said(tmp_path: Path) -> None:
    ours, clips = packing(tmp_path / "recurrent", "qwen3_5")
    with pytest.raises(
        UsageError, match=r"the oldest clip cannot leave(.|\n)*a state \(\w+\) that every token changed"
    ):
        ClipWindow(ours, 2, "evict").show(clips[0])
    units, layers = case("qwen2_5_vl").plan.units, case("qwen2_5_vl").plan.layers
    reads = {"keep": (units, *[units // 2] * (layers - 1)), "last_layer": "full", "score": "pyramiddrop"}
    ours, clips = packing(tmp_path / "reads", **reads)
    with pytest.raises(UsageError, match=r"'pyramiddrop' keeps depends on the question(.|\n)*forget='rebuild'"):
        ClipWindow(ours, 2, "evict").show(clips[0])
    ours, clips = packing(tmp_path / "device")
    ours.backend.capabilities = Capabilities()
    with pytest.raises(UsageError, match="back-end torch keeps caches where rows cannot be taken out"):
        ClipWindow(ours, 2, "evict").show(clips[0])
    manifest = replace(ours.bundle.manifest, prompt=replace(ours.bundle.manifest.prompt, prefix="all"))  # type: ignore[arg-type]
    ours.default.bundle = replace(ours.bundle, manifest=manifest)
    with pytest.raises(UsageError, match=r"sees its whole prompt both ways"):
        clip_window.check_evictable(ours.default)
    decoder = replace(manifest.decoder, states=(State(1, PLACE, (ROWS,), "int64", 512),))
    ours.default.bundle = replace(ours.bundle, manifest=replace(manifest, decoder=decoder))
    with pytest.raises(UsageError, match=r"layer 1 looks 512 places back(.|\n)*forget='rebuild'"):
        clip_window.check_evictable(ours.default)


@pytest.mark.parametrize(("clips", "forget"), [(0, "rebuild"), (True, "rebuild"), (2, "slide")])
def test_a_window_is_so_many_clips(clips: Any, forget: Any, tmp_path: Path) -> None:
    ours, _ = packing(tmp_path)
    with pytest.raises(UsageError, match=r"a window holds clips|no such way to forget"):
        ClipWindow(ours, clips, forget)
    with pytest.raises(UsageError, match="no clip was shown yet"):
        ClipWindow(ours, 2).ask(ASK)


def test_prompts_that_count_their_clips_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, clips = packing(tmp_path)
    written = clip_window._stand_in

    def counted(loaded: LoadedPlan, count: int, prompt: str) -> tuple[int, ...]:
        return (*written(loaded, count, prompt), count)

    monkeypatch.setattr(clip_window, "_stand_in", counted)
    with pytest.raises(UsageError, match="does not have its clips one after another"):
        ClipWindow(ours, 2).show(clips[0])
