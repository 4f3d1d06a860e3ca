"""Times to the first token from the rates of a model's own products."""

from __future__ import annotations

import time

import numpy as np
import pytest
from flat_plans import flat_request

from luvc_export.core.planning import solve
from luvc_export.core.shapes import DecoderShape, EncoderShape
from luvc_export.errors import MachineError, PlanError, UsageError
from luvc_export.runtime.product_check.graph import INPUT, plain_product
from luvc_export.runtime.speed_probe import first_token
from luvc_export.runtime.speed_probe.first_token import (
    Rate,
    Speed,
    engines,
    predicted,
    probe,
    rate,
    seconds,
    speedup_for,
)

LLM = DecoderShape(8, 192, 6, 2, 32, 512, 746, 2048)
ENCODER = EncoderShape(12, 128, 320, 4, 4, (3, 7, 11), True)


def speed(encoder: float, llm: float) -> Speed:
    return Speed(Rate("cpu", "fp32", (1, 1, 1), encoder), Rate("cpu", "fp32", (1, 1, 1), llm))


@pytest.mark.parametrize(("text", "value"), [("500ms", 0.5), ("1.5s", 1.5), (" 2 ", 2.0), ("0.25 s", 0.25)])
def test_times_are_read(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0ms", "-1s", "5 min", "1e3ms", "9999999s", "ms"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="this is no time"):
        seconds(text)


def test_a_solved_plan_is_predicted_to_meet_its_goal() -> None:
    rates = speed(1e9, 2e9)
    none = solve(flat_request("none"), (10, 26), LLM, ENCODER)
    whole = predicted(none, LLM, ENCODER, 64, rates)
    goal = whole.encoder + whole.llm / 2
    factor = speedup_for(goal, whole, "10x26 units")
    assert factor == pytest.approx(2)
    prediction = predicted(solve(flat_request(speedup=factor), (10, 26), LLM, ENCODER), LLM, ENCODER, 64, rates)
    assert goal * 0.95 <= prediction.seconds <= goal
    assert speedup_for(whole.seconds * 2, whole, "") < 1


def test_half_the_rate_is_twice_the_time() -> None:
    plan = solve(flat_request("safe"), (10, 26), LLM, ENCODER)
    fast, slow = (predicted(plan, LLM, ENCODER, 64, speed(2e9, rate)) for rate in (2e9, 1e9))
    assert slow.llm == pytest.approx(2 * fast.llm) and slow.encoder == fast.encoder


def test_an_encoder_that_takes_longer_is_told_with_the_way_out() -> None:
    whole = predicted(solve(flat_request("none"), (10, 26), LLM, ENCODER), LLM, ENCODER, 64, speed(1e9, 1e9))
    with pytest.raises(PlanError, match="the encoder alone takes longer") as caught:
        speedup_for(whole.encoder / 2, whole, "10x26 units")
    assert "10x26 units" in str(caught.value) and "--image-tokens" in str(caught.value)


@pytest.mark.parametrize("engine", engines())
def test_a_rate_is_that_of_the_product(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that takes 10 ms longer a run is seen as slower by that."""
    monkeypatch.setattr(first_token, "SECONDS", 0.01)
    opened = first_token._open

    def slowed(*arguments: object) -> object:
        run, arithmetic = opened(*arguments)  # type: ignore[arg-type]

        def late(rows: object) -> None:
            time.sleep(0.01)
            run(rows)  # type: ignore[arg-type]

        return late, arithmetic

    monkeypatch.setattr(first_token, "_open", slowed)
    measured = rate(engine, 64, 96, 80)
    assert measured.shape == (64, 96, 80) and 0 < measured.flops <= 2 * 64 * 96 * 80 / 0.01
    assert measured.arithmetic in ("fp32", "bf16", "f16", "fp16")


def test_what_is_timed_is_the_product() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    session = onnxruntime.InferenceSession(plain_product(weights), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {INPUT: rows})[0], rows @ weights)


def test_an_engine_that_is_not_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_token, "engines", lambda: ("cpu",))
    plan = solve(flat_request("none"), (2, 2), LLM, ENCODER)
    with pytest.raises(MachineError, match="not here to be timed"):
        probe(plan, LLM, ENCODER, "openvino")
