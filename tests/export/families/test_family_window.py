"""A window that slides over clips: what was encoded before is not encoded again, and answers are a fresh window's."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_harness import case
from luvc_export.runtime.sharing.features import FeatureStore
from test_family_answers import session
from test_family_joint import MOMENTS, joint
from test_family_video import FPS, frames

from luvc_export.errors import UsageError
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import VisualFeatures

WINDOW = 3


def asked(window: Any) -> list[Any]:
    content = [{"type": "video", "video": clip, "fps": FPS} for clip in window]
    return [{"role": "user", "content": [*content, {"type": "text", "text": "What now?"}]}]


def encoded(own: Session) -> list[int]:
    """How many images each call of the encoder had, from now on."""
    calls, real = list[int](), own.default.encode_images
    own.default.encode_images = lambda images, *rest: (calls.append(len(images)), real(images, *rest))[1]  # type: ignore[method-assign, func-returns-value]
    return calls


def test_a_sliding_window_encodes_the_newest_clip_alone(tmp_path: Path) -> None:
    tiny = case("qwen2_vl")
    plan, shown = joint(tiny), frames(tiny, 2 * MOMENTS * 6)
    clips = [shown[first : first + 2 * MOMENTS] for first in range(0, len(shown), 2 * MOMENTS)]
    keeps, fresh = (session(tiny, tmp_path / name, plan, video=True) for name in ("keeps", "fresh"))
    keeps.default.store = FeatureStore(WINDOW)
    calls, window, sizes = encoded(keeps), deque[Any](maxlen=WINDOW), list[int]()
    for clip in clips:
        window.append(clip)
        mine = keeps.generate(messages=asked(window), max_new_tokens=6)
        theirs = fresh.generate(messages=asked(window), max_new_tokens=6)
        assert mine.token_ids == theirs.token_ids and mine.visual_tokens == theirs.visual_tokens
        assert np.array_equal(mine.selection.merged_into, theirs.selection.merged_into)
        sizes.append(len(keeps.default.store))
    assert calls == [MOMENTS] * len(clips), "each clip once, whole"
    assert sizes == [1, 2, 3, 3, 3, 3]
    keeps.generate(messages=asked([clips[0]]), max_new_tokens=1)
    assert len(calls) == len(clips) + 1, "what left the window is forgotten"


def test_several_turns_about_a_clip_encode_it_once(tmp_path: Path) -> None:
    """Even where a turn cannot go on from the caches, as with words that are not tokenised back to what was said."""
    tiny = case("qwen2_vl")
    own, shown = session(tiny, tmp_path, joint(tiny), video=True), frames(tiny, 2 * MOMENTS)
    own.default.store = FeatureStore(1)
    calls, messages = encoded(own), asked([shown])
    first = own.generate(messages=messages, max_new_tokens=4)
    more = [
        *messages,
        {"role": "assistant", "content": [{"type": "text", "text": first.text}]},
        {"role": "user", "content": [{"type": "text", "text": "And then?"}]},
    ]
    second = own.generate(messages=more, after=first, max_new_tokens=4)
    assert [count for count in calls if count] == [MOMENTS]
    fresh = session(tiny, tmp_path / "fresh", joint(tiny), video=True)
    assert second.token_ids == fresh.generate(messages=more, max_new_tokens=4).token_ids


def test_another_plan_or_another_pixel_is_another_group() -> None:
    store = FeatureStore(4)
    pixels = np.zeros((2, 1, 8, 8, 3), np.uint8)
    request, calls = Request((0,), pixels, ()), list[int]()

    def encode(images: Any, *rest: Any) -> VisualFeatures:
        calls.append(len(images))
        return VisualFeatures(np.ones((len(images), 4, 8), np.float32), np.zeros((len(images), 4, 2), np.float32))

    for plan in ("a", "a", "b"):
        store.of(plan, request, 2, encode)
    other = Request((0,), pixels + np.uint8(1), ())
    store.of("a", other, 2, encode)
    store.of("a", other, 1, encode)
    assert calls == [2, 2, 2, 1] and len(store) == 4
    with pytest.raises(UsageError, match="counted from 1 on"):
        FeatureStore(-1)
