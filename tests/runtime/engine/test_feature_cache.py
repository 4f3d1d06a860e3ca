"""What is kept of pictures: bounded, told apart by all that counts, and nobody else's memory."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flat_plans import replan

from luvc_export.bundle.folder import Bundle
from luvc_export.core.token_layout import Clip
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.feature_cache import FeatureCache, Keys
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import VisualFeatures


def features(value: float, rows: int = 4) -> VisualFeatures:
    return VisualFeatures(np.full((1, rows, 8), value, np.float32), np.zeros((1, rows, 2), np.float32))


SIZE = 4 * 8 * 4 + 4 * 2 * 4


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = FeatureCache(2 * SIZE)
    for name in (b"a", b"b"):
        cache.keep_features(name, features(ord(name)))
    assert cache.features(b"a") is not None
    cache.keep_features(b"c", features(1))
    assert cache.features(b"b") is None and cache.features(b"a") is not None
    assert (cache.counts.nbytes, cache.counts.entries, cache.counts.evicted) == (2 * SIZE, 2, 1)
    assert (cache.counts.hits["image"], cache.counts.misses["image"]) == (2, 1)


def test_what_is_larger_than_all_is_not_kept_and_evicts_nothing() -> None:
    cache = FeatureCache(SIZE)
    cache.keep_features(b"a", features(1))
    cache.keep_features(b"b", features(2, rows=100))
    assert cache.features(b"a") is not None and cache.features(b"b") is None
    assert FeatureCache(0).keep_features(b"a", features(1)).embeds[0, 0, 0] == 1


def test_the_same_key_again_counts_once() -> None:
    cache = FeatureCache(10 * SIZE)
    for _ in range(3):
        cache.keep_features(b"a", features(1))
    assert (cache.counts.nbytes, cache.counts.entries) == (SIZE, 1)


def test_a_buffer_that_is_written_again_changes_nothing() -> None:
    """react-native-executorch#1229: old pictures turned into the newest."""
    cache, buffer = FeatureCache(10 * SIZE), features(1)
    cache.keep_features(b"a", buffer)
    buffer.embeds[:] = 7
    kept = cache.features(b"a")
    assert kept is not None and kept.embeds.max() == 1


@pytest.fixture(scope="module")
def demo_session(demo_bundle: Bundle) -> Session:
    return Session(demo_bundle, "cpu", "even", threads=1)


def loaded(demo: Session, **changed: Any) -> Any:
    parts = {name: getattr(demo, name) for name in ("plan_name", "plan", "size", "bundle")}
    backend = {"name": demo.backend.name, "arithmetic": demo.backend.arithmetic}
    backend |= {name: changed.pop(name) for name in ("name", "arithmetic") if name in changed}
    plan: Any = SimpleNamespace(**{**parts, **changed}, backend=SimpleNamespace(**backend))
    return LoadedPlan.fingerprint.func(plan)  # type: ignore[attr-defined]


def test_all_that_counts_is_in_the_key(demo_session: Session) -> None:
    pixels = np.zeros((1, 2, 8, 8, 3), np.uint8)
    base = Keys(loaded(demo_session)).image(pixels)
    assert base == Keys(loaded(demo_session)).image(pixels.copy())
    manifest = demo_session.bundle.manifest
    other = SimpleNamespace(
        manifest=replace(manifest, files={**manifest.files, "x": next(iter(manifest.files.values()))})
    )
    changed = [
        loaded(demo_session, plan_name="other"),
        loaded(demo_session, plan=replan(demo_session.plan, rho=0.2)),
        loaded(demo_session, size=(1, 2)),
        loaded(demo_session, name="openvino:CPU"),
        loaded(demo_session, arithmetic="bf16"),
        loaded(demo_session, bundle=other),
    ]
    keys = [Keys(one).image(pixels) for one in changed]
    dot = pixels.copy()
    dot[0, 0, 3, 3, 1] = 1
    keys += [Keys(loaded(demo_session)).image(dot), Keys(loaded(demo_session)).image(pixels.reshape(1, 2, 4, 16, 3))]
    void = np.zeros((1, 9, 12), np.bool_)
    keys += [Keys(loaded(demo_session)).image(pixels, void), Keys(loaded(demo_session)).image(pixels, ~void)]
    assert len({base, *keys}) == 1 + len(keys)


def test_all_tokens_up_to_the_picture_are_in_the_key_of_a_prefix(demo_session: Session) -> None:
    keys = Keys(demo_session.default.fingerprint)
    request = demo_session.prepare(np.zeros((8, 8, 3), np.uint8), "a")
    clip = replace(request, blocks={0: Clip(1, 2.0)})
    prefixes = [
        keys.prefix(request, (1, 2, 3), [b"p"]),
        keys.prefix(request, (1, 2), [b"p"]),
        keys.prefix(request, (1, 2, 4), [b"p"]),
        keys.prefix(request, (1, 2, 3), [b"q"]),
        keys.prefix(request, (1, 2, 3), [b"p", b"q"]),
        keys.prefix(clip, (1, 2, 3), [b"p"]),
    ]
    assert len(set(prefixes)) == len(prefixes)


@pytest.mark.parametrize("kind", ["image", "prefix"])
def test_kinds_do_not_meet(kind: str) -> None:
    cache = FeatureCache(10 * SIZE)
    cache.keep_features(b"a", features(1))
    assert cache.prefix(b"a") is None


def test_groups_are_counted_where_they_are_asked_to_be() -> None:
    cache = FeatureCache(10 * SIZE, groups=2, prefixes=False)
    for key in (b"a", b"b", b"c"):
        cache.keep_features(key, features(1))
    assert len(cache) == 2 and cache.features(b"a") is None and cache.features(b"c") is not None
    with pytest.raises(UsageError, match="counted from 1 on"):
        FeatureCache(1, groups=-1)
