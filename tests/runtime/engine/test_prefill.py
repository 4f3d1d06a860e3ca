"""A hit answers as its miss, to the last bit; what reads the question is never started from another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flat_plans import replan

from luvc_export.bundle.folder import Bundle
from luvc_export.core.plan import Method, schema_1
from luvc_export.core.tiling import Prefix
from luvc_export.core.token_layout import Mosaic
from luvc_export.demo.questions import cases
from luvc_export.export.compression import scores
from luvc_export.runtime.engine.answers import Answers
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.engine.job import Answer, Job, Prefilled
from luvc_export.runtime.engine.prefill import Prefiller, prefix_length
from luvc_export.runtime.generation.sequence import GreedyTokens
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.session import Session

CASE = next(cases("heldout", 1, 0, ("where_is",)))
TWO = next(cases("heldout", 1, 0, ("two_pictures",)))


@pytest.fixture(scope="module", params=["cpu", "openvino"])
def demo(request: pytest.FixtureRequest, demo_bundle: Bundle) -> Session:
    return Session(demo_bundle, request.param, "even", 1, arithmetic="auto" if request.param == "cpu" else "fp32")


def begun(demo: Session, cache: FeatureCache, request: Request) -> tuple[Prefilled, Any]:
    """What running a prompt took, and its first logits."""
    chooser = GreedyTokens(1, keep_logits=True)
    job = Job(demo.default, request, lambda room: [chooser])
    answers = Answers(demo.default.graphs, several=True)
    prefilled = Prefiller(demo.default, cache).begin(answers, job, [Answer(chooser, job)])
    return prefilled, chooser.logits[0]


def test_a_hit_is_its_miss_to_the_last_bit(demo: Session) -> None:
    for case in (CASE, TWO):
        asked, cache = demo.prepare(list(case.images), case.prompt), FeatureCache(2**30)
        (miss, first), (hit, second) = begun(demo, cache, asked), begun(demo, cache, asked)
        assert (miss.source, hit.source) == ("none", "prefix") and hit.vision_ms < miss.vision_ms
        np.testing.assert_array_equal(first, second)
        assert hit.merged_into is not None and miss.merged_into is not None
        np.testing.assert_array_equal(miss.merged_into, hit.merged_into)
        other = demo.prepare(list(case.images), "digit of red?")
        (again, own), (alone, fresh) = begun(demo, cache, other), begun(demo, FeatureCache(2**30), other)
        assert (again.source, alone.source) == ("prefix", "none")
        np.testing.assert_array_equal(own, fresh)


def test_the_prompt_cut_in_two_answers_as_one_call(demo: Session) -> None:
    for case in (CASE, TWO):
        asked = demo.prepare(list(case.images), case.prompt)
        cut, logits = begun(demo, FeatureCache(2**30), asked)
        whole, own = begun(demo, FeatureCache(0), asked)
        assert whole.prefix_ms == 0 < cut.prefix_ms
        np.testing.assert_allclose(logits, own, atol=2e-3)
        assert {layer: kept.tolist() for layer, kept in cut.kept.items()} == {
            layer: kept.tolist() for layer, kept in whole.kept.items()
        }


def test_each_picture_is_kept_alone(demo: Session) -> None:
    """omlx#1417: a cache that missed for several pictures. Text before a picture is another prefix."""
    cache = FeatureCache(2**30)

    def source(*asked: Any, **more: Any) -> str:
        return begun(demo, cache, demo.prepare(*asked, **more))[0].source

    source([TWO.images[0]], "a?")
    assert source(list(TWO.images), TWO.prompt) == "none"
    assert cache.counts.hits["image"] == 1, "the first of the two"
    assert source(list(TWO.images)[::-1], TWO.prompt) == "image", "both, in another order"
    parts = [{"type": "text", "text": "Look."}, {"type": "image"}, {"type": "text", "text": "a?"}]
    assert source([TWO.images[0]], messages=[{"role": "user", "content": parts}]) == "image"


def test_text_alone_leaves_the_cache_alone(demo: Session) -> None:
    cache = FeatureCache(2**30)
    assert begun(demo, cache, demo.prepare(None, "Hello"))[0].source == "none"
    assert cache.counts.entries == 0 and cache.counts.misses == {"image": 0, "prefix": 0}


def twice(demo: Session) -> list[str]:
    """What the cache had of a prompt at its first and second time."""
    cache, asked = FeatureCache(2**30), demo.prepare(list(CASE.images), CASE.prompt)
    return [begun(demo, cache, asked)[0].source for _ in range(2)]


def test_scores_that_read_the_question_keep_no_prefix(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.default, "plan", replan(demo.plan, score="fastv"))
    assert demo.plan.reads_text and twice(demo) == ["none", "image"]


def test_a_prompt_seen_both_ways_keeps_no_prefix(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = demo.bundle.manifest
    manifest_of_both = replace(manifest, prompt=replace(manifest.prompt, prefix=Prefix("", "")))
    monkeypatch.setattr(demo.default, "bundle", replace(demo.bundle, manifest=manifest_of_both))
    assert twice(demo) == ["none", "image"]


def test_an_installed_score_that_reads_no_text_keeps_its_prefix(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan says so, wherever the score is installed."""
    method = Method("of another package", (("width", 2.0),), reads_text=False)
    monkeypatch.setattr(demo.default, "plan", demo.plan.changed(method=method))
    assert twice(demo) == ["none", "prefix"]


def test_old_plans_have_the_facts_and_settings_of_their_scores() -> None:
    """The reader of schema 1 is the one place of core that knows scores by name."""
    assert {*schema_1.SCORES} <= {*scores.built_in()}
    for name in schema_1.SCORES:
        score, read = scores.find(name), schema_1.method_of({"score": name}, "test")
        assert (read["reads_text"], read["reads_spectrum"]) == (score.reads_text, score.reads_spectrum), name
        assert sorted(read["settings"]) == sorted(score.settings), name


def request(ids: list[int], blocks: dict[int, Any] | None = None) -> Request:
    return Request(tuple(ids), np.zeros((ids.count(9), 1, 1, 1, 3), np.uint8), (), (), blocks or {})


def test_where_a_prompt_is_cut() -> None:
    grid = (2, 3)
    assert prefix_length(request([1, 9, 2, 3]), 9, grid) == 3
    assert prefix_length(request([1, 9, 2, 9, 4, 5]), 9, grid) == 5
    assert prefix_length(request([9, 2]), 9, grid) is None, "nothing is left to ask"
    assert prefix_length(request([1, 2]), 9, grid) is None, "no picture"
    mosaic = {0: Mosaic((2, 1))}
    assert prefix_length(request([1, 9, 9, 5, 5, 5, 5, 6, 7], mosaic), 9, grid) == 8, "row ends belong to the picture"
    assert prefix_length(request([1, 9, 9, 5, 5, 5, 5, 9, 6, 7], mosaic), 9, grid) == 9, "then the whole picture"
