"""Bias, penalties, masks and log probabilities against transformers' and torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation.logits_process import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor

from luvc_export.errors import CheckFailed, UsageError
from luvc_export.runtime.generation.logits import Penalties, masked, token_logprob
from luvc_export.runtime.generation.sampler import Sampler, probabilities
from luvc_export.runtime.generation.sampling import Sampling, sampling_from


def some(seed: int, size: int = 20) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32) * 3


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.3, 4.0]), st.lists(st.integers(0, 19), max_size=9))
def test_repetition_is_transformers(seed: int, penalty: float, seen: list[int]) -> None:
    logits = some(seed)
    got = Penalties({}, penalty).apply(logits, seen[::2], seen[1::2])
    wanted = logits
    if seen:
        ids, scores = torch.tensor([seen]), torch.from_numpy(logits)[None].clone()
        wanted = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)[0].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 1.0]))
def test_min_p_is_transformers(seed: int, min_p: float) -> None:
    logits = some(seed)
    scores = MinPLogitsWarper(min_p)(None, torch.from_numpy(logits)[None].double())
    got = probabilities(logits, Sampling(temperature=1.0, min_p=min_p))
    np.testing.assert_allclose(got, scores.softmax(-1)[0].numpy(), atol=1e-9)


def test_presence_counts_once_and_frequency_every_time() -> None:
    """OpenAI's formula: mu[j] - c[j] * frequency - (c[j] > 0) * presence; the prompt does not count."""
    logits = np.zeros(5, np.float32)
    got = Penalties({}, presence=0.5, frequency=0.25).apply(logits, [4, 4], [1, 1, 1, 2])
    np.testing.assert_allclose(got, [0, -0.5 - 0.75, -0.5 - 0.25, 0, 0])
    assert not logits.any(), "the model's logits stay"


def test_a_bias_moves_the_choice_and_ids_beyond_are_left_out() -> None:
    logits = np.array([1, 2, 3], np.float32)
    assert Sampler(Sampling(logit_bias={0: 5.0, 99: 100.0}))(logits, 0) == 0
    assert Sampler(Sampling(logit_bias={2: -100.0}))(logits, 0) == 1
    assert Sampler(Sampling())(logits, 0) == 2


def test_penalties_reach_what_was_made() -> None:
    sampler = Sampler(Sampling(presence_penalty=2.0), prompt=[1])
    logits = np.array([0, 1, 0.5], np.float32)
    assert [sampler(logits, 0, []), sampler(logits, 1, [1]), sampler(logits, 2, [1, 2])] == [1, 2, 0]
    assert Sampler(Sampling(repetition_penalty=4.0), prompt=[1])(logits, 0) == 2


def test_a_mask_says_what_may_follow() -> None:
    seen: list[list[int]] = []

    def start() -> Any:
        def allowed(tokens: Sequence[int]) -> NDArray[np.bool_] | None:
            seen.append(list(tokens))
            return None if len(tokens) > 1 else np.arange(4) == len(tokens)

        return allowed

    sampler, logits = Sampler(Sampling(mask=start)), np.array([0, 1, 2, 3], np.float32)
    assert [sampler(logits, step, [9] * step) for step in range(3)] == [0, 1, 3]
    assert seen == [[], [9], [9, 9]]
    drawn = Sampler(Sampling(mask=start, temperature=2.0, seed=1))
    assert {drawn(logits, 0, []) for _ in range(20)} == {0}


@pytest.mark.parametrize("allowed", [np.zeros(3, np.bool_), np.ones(4, np.bool_)])
def test_a_mask_that_leaves_nothing_is_a_failed_check(allowed: NDArray[np.bool_]) -> None:
    with pytest.raises(CheckFailed, match=r"allows no token|another shape"):
        masked(np.zeros(3, np.float32), allowed, 0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 20))
def test_logprobs_are_a_log_softmax(seed: int, top: int) -> None:
    logits = some(seed)
    got = token_logprob(logits, 3, top)
    wanted = torch.from_numpy(logits).double().log_softmax(-1)
    assert got.logprob == pytest.approx(float(wanted[3]), abs=1e-9)
    values, ids = wanted.topk(min(top, 20))
    assert [token for token, _ in got.top] == ids.tolist()
    np.testing.assert_allclose([value for _, value in got.top], values.numpy(), atol=1e-9)


def test_equal_logits_come_by_id() -> None:
    assert [token for token, _ in token_logprob(np.zeros(6, np.float32), 0, 3).top] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_p": 0.5}, "min_p choose what is drawn from"),
        ({"temperature": 1, "min_p": 2}, "min_p: got 2"),
        ({"repetition_penalty": 0}, "repetition_penalty: got 0"),
        ({"repetition_penalty": 1e-38}, "repetition_penalty: got 1e-38, expected a number from 0.01 to 100"),
        ({"repetition_penalty": 101}, "repetition_penalty: got 101, expected a number from 0.01 to 100"),
        ({"presence_penalty": 3}, "presence_penalty: got 3"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty: got nan"),
        ({"logit_bias": {"a": 1}}, "logit_bias: got {'a': 1}"),
        ({"logit_bias": [1]}, "logit_bias: got [1]"),
        ({"logit_bias": {1: 101}}, "logit_bias: got {1: 101}"),
        ({"logprobs": 21}, "logprobs: got 21"),
        ({"logprobs": True}, "logprobs: got True"),
        ({"mask": 7}, "mask: got 7, expected a function"),
        ({"regex": ""}, "regex: got ''"),
        ({"json_schema": "{}"}, "json_schema: got '{}'"),
        ({"regex": "a", "json_schema": {}}, "exclude each other"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        sampling_from(options)
    assert words in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    bias=st.dictionaries(st.integers(0, 5), st.floats(-100, 100), max_size=4),
    repetition=st.floats(0.01, 100),
    penalties=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    temperature=st.floats(0, exclude_min=False, allow_infinity=False, allow_nan=False),
)
def test_whatever_is_asked_the_sampler_works_on_finite_numbers(
    logits: list[float], bias: dict[int, float], repetition: float, penalties: tuple[float, float], temperature: float
) -> None:
    """A NaN here ended the answers of everybody in the same step."""
    changed = Penalties(bias, repetition, *penalties).apply(np.array(logits, np.float32), [0, 1], [2, 2, 3])
    assert changed.dtype == np.float32 and np.isfinite(changed).all()
    options = Sampling(
        temperature=temperature, logit_bias=bias, repetition_penalty=repetition, presence_penalty=penalties[0], seed=1
    )
    assert 0 <= Sampler(options, [0, 1])(np.array(logits, np.float32), 1, [2]) < 4


def test_minus_infinity_stays() -> None:
    changed = Penalties({0: 100.0}, 100.0).apply(np.array([-np.inf, 1.0], np.float32), [0], [])
    assert changed.tolist() == [-np.inf, 1.0]


def test_only_plain_greedy_answers_may_stay_on_a_device() -> None:
    assert Sampling().takes_the_best
    for changed in (
        {"logprobs": 0}, {"logit_bias": {1: 1.0}}, {"presence_penalty": 1.0}, {"frequency_penalty": 1.0},
        {"repetition_penalty": 2.0}, {"regex": "a"}, {"json_schema": {}}, {"mask": lambda: None}, {"temperature": 1.0},
    ):  # fmt: skip
        assert not sampling_from(changed).takes_the_best, changed
