"""A server whose rows take several tokens a step: the same answers, and what is counted."""

from __future__ import annotations

import pytest
from asking import CASES, SECONDS, long, submit

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.session import Session
from luvc_export.serve.engine.jobs import Ended
from luvc_export.serve.engine.loop import Engine
from luvc_export.serve.metrics import Metrics


@pytest.fixture(scope="module")
def drafting(demo_bundle: Bundle) -> Session:
    return Session(demo_bundle, "cpu", "even", threads=1, speculate="lookup:5")


def count(metrics: Metrics, name: str) -> float:
    """A counter of the one model there is."""
    return float(metrics.registry.get_sample_value(f"luvc_{name}_total", {"model": ""}) or 0)


def test_rows_accept_their_own_drafts_and_all_is_counted(drafting: Session, demo_session: Session) -> None:
    metrics = Metrics()
    engine = Engine(FeatureCache(2**26), rows=8, queue=16, observer=metrics)
    engine.start()
    asked = [long(drafting, number, logprobs=1) for number in range(3)]
    submit(engine, *asked)
    ends = [one.wait(Ended) for one in asked]
    engine.drain()
    assert engine.join(SECONDS)
    bias = dict.fromkeys(demo_session.default.ends, -100.0)
    for case, events in zip(CASES, ends, strict=False):
        wanted = demo_session.generate(list(case.images), case.prompt, max_new_tokens=40, logit_bias=bias, logprobs=1)
        text = "".join(getattr(event, "text", "") for event in events)
        tokens = [one.token for event in events for one in getattr(event, "logprobs", ())]
        assert (text, tuple(tokens)) == (wanted.text, wanted.token_ids)
    accepted, steps = (count(metrics, name) for name in ("spec_decode_num_accepted_tokens", "decode_steps"))
    assert accepted > 0 and count(metrics, "spec_decode_num_draft_tokens") >= accepted
    assert 0 < count(metrics, "spec_decode_num_drafts") <= steps
    assert count(metrics, "generation_tokens") == 3 * 40 == steps + accepted + 3, "a prefill gives one a row"


def test_without_drafts_a_step_gives_a_token(demo_session: Session) -> None:
    metrics = Metrics()
    metrics.stepped("m", 3, 0.01)
    assert metrics.registry.get_sample_value("luvc_decode_steps_total", {"model": "m"}) == 3
    assert metrics.registry.get_sample_value("luvc_generation_tokens_total", {"model": "m"}) == 3
    assert b"spec_decode_num_accepted_tokens_total{" not in metrics.text()
