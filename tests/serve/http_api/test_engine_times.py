"""What ``/metrics`` says of the decoder's calls: by model, by what they were for and by the engine that ran them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calling import Client, user
from prometheus_client.parser import text_string_to_metric_families
from running import serving

from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.runtime.session import Session
from luvc_export.runtime.speculation.draft_costs import DraftCosts
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.server import Server

CASE = next(cases("heldout", 1))
TOKENS = 24
Served = tuple[Server, Client]


@pytest.fixture(scope="module")
def watched(demo_bundle: Bundle, lora: Path) -> Iterator[Served]:
    """One model that looks drafts up, one that has them made by another plan, one on two engines."""
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    drafting = Session(demo_bundle, "cpu", "none", 1, speculate=f"draft:{demo_bundle.folder}#even:3")
    drafting.default.draft_costs = DraftCosts(0.0, clock=None)  # drafts are always made
    sessions = {
        "lookup": Session(demo_bundle, "cpu", "even", 1, speculate="lookup:5"),
        "pair": drafting,
        "halves": Session(lora / "plain", "openvino+cpu", threads=1, arithmetic="fp32"),
    }
    with serving(Models([ServedModel(name, session) for name, session in sessions.items()])) as server:
        yield server


def ask(server: Served, model: str, picture: bool = True) -> int:
    """Put a question of a long answer; tokens of the answer."""
    ends = server[0].models.by_name[model].session.default.ends
    forced: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0, "logit_bias": {str(end): -100 for end in ends}}
    reply = server[1].chat(model=model, messages=user(CASE.prompt, *CASE.images[:picture]), **forced)
    assert reply.status == 200, reply.body
    return int(reply.json()["usage"]["completion_tokens"])


def samples(server: Served, name: str) -> dict[tuple[str, ...], float]:
    """Values of a metric, by its labels' values in the order of their names."""
    text = server[1].call("GET", "/metrics").body.decode()
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"luvc_{name}"
    }


def calls(server: Served, model: str) -> dict[tuple[str, str], float]:
    """Calls of a model's decoder by engine and part; each kind has taken some time."""
    counts, seconds = (samples(server, f"engine_call_seconds_{part}") for part in ("count", "sum"))
    assert counts.keys() == seconds.keys() and all(0 < seconds[kind] < 60 for kind in counts)
    return {(engine, part): value for (engine, name, part), value in counts.items() if name == model}


def per_model(server: Served, name: str, model: str) -> float:
    return samples(server, f"{name}_total").get((model,), 0.0)


@pytest.mark.parametrize("model", ["lookup", "pair"])
def test_every_step_is_a_call_and_lengths_follow(watched: Served, model: str) -> None:
    """Acceptance length and tokens a step as docs/serving.md says they are had."""
    ask(watched, model)
    taken = calls(watched, model)
    steps = per_model(watched, "decode_steps", model)
    drafts, accepted = (per_model(watched, f"spec_decode_num_{name}", model) for name in ("drafts", "accepted_tokens"))
    assert taken["cpu fp32", "verify"] == drafts > 0
    assert taken["cpu fp32", "verify"] + taken.get(("cpu fp32", "step"), 0) == steps, "of one row"
    assert 1 + accepted / steps == pytest.approx((TOKENS - 1) / steps) and 1 <= 1 + accepted / drafts <= 6
    drafted = per_model(watched, "spec_decode_num_draft_tokens", model)
    kinds = {part for _, part in taken} - {"step"}
    assert kinds == {"prompt", "verify"} | ({"draft prompt", "draft step"} if model == "pair" else set())
    assert model == "lookup" or taken["cpu fp32", "draft step"] == drafted, "a call of the smaller model for each"


def test_two_engines_of_one_back_end_are_told_apart(watched: Served) -> None:
    assert ask(watched, "halves", picture=False) == TOKENS
    taken = calls(watched, "halves")
    assert taken == {("openvino:CPU fp32", "prompt"): 1, ("cpu fp32", "step"): TOKENS - 1}


def test_every_opened_plan_counts_and_no_figure_falls(watched: Served) -> None:
    """Of a plan that nobody named, which was opened for a question, and unloaded and loaded again since."""
    server = watched[0]
    session, before = server.models.by_name["lookup"].session, calls(watched, "lookup")
    other = session.plans["none"]
    for count in (1, 2):
        other.run([97, 98])
        after = calls(watched, "lookup")
        assert sum(after.values()) == sum(before.values()) + count
        assert all(after[kind] >= number for kind, number in before.items())
        other.backend.unload()  # type: ignore[attr-defined]
    assert not other.backend.placement() and calls(watched, "lookup") == after
