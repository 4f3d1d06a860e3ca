"""A window that slides over clips: what was encoded before is not encoded again, and answers are a fresh window's."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from family_harness import case
from test_family_answers import session
from test_family_joint import MOMENTS, joint
from test_family_video import FPS, frames

from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.session import Session

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
    keeps.features = FeatureCache(2**30, WINDOW, prefixes=False)
    calls, window, sizes = encoded(keeps), deque[Any](maxlen=WINDOW), list[int]()
    for clip in clips:
        window.append(clip)
        mine = keeps.generate(messages=asked(window), max_new_tokens=6)
        theirs = fresh.generate(messages=asked(window), max_new_tokens=6)
        assert mine.token_ids == theirs.token_ids and mine.visual_tokens == theirs.visual_tokens
        assert np.array_equal(mine.selection.merged_into, theirs.selection.merged_into)
        sizes.append(len(keeps.features))
    assert calls == [MOMENTS] * len(clips), "each clip once, whole"
    assert sizes == [1, 2, 3, 3, 3, 3]
    keeps.generate(messages=asked([clips[0]]), max_new_tokens=1)
    assert len(calls) == len(clips) + 1, "what left the window is forgotten"


def test_several_turns_about_a_clip_encode_it_once(tmp_path: Path) -> None:
    """Even where a turn cannot go on from the caches, as with words that are not tokenised back to what was said."""
    tiny = case("qwen2_vl")
    own, shown = session(tiny, tmp_path, joint(tiny), video=True), frames(tiny, 2 * MOMENTS)
    own.features = FeatureCache(2**30, 1, prefixes=False)
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
