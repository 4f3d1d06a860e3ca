from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from luvc_export.errors import CheckFailed, UsageError
from luvc_export.runtime.generation.sampler import Sampler, probabilities
from luvc_export.runtime.generation.sampling import Sampling, sampling_from

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def test_greedy_takes_the_first_of_the_best() -> None:
    assert Sampler(Sampling())(LOGITS, 0) == 1
    assert Sampler(Sampling())(np.array([0, 7, 7], np.float32), 0) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.3, 1.0, 2.5]),
    st.sampled_from([None, 1, 3, 50]),
    st.sampled_from([0.05, 0.5, 0.9, 1.0]),
)
def test_probabilities_are_transformers(seed: int, temperature: float, top_k: int | None, top_p: float) -> None:
    logits = np.random.default_rng(seed).normal(size=20).astype(np.float32) * 3
    scores = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits)[None].double())
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    got = probabilities(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    np.testing.assert_allclose(got, scores.softmax(-1)[0].numpy(), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 99}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 1e-9}, [0, 1, 0, 0]),
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_edges(options: dict[str, Any], wanted: list[float]) -> None:
    np.testing.assert_allclose(probabilities(LOGITS, Sampling(temperature=1.0, **options)), wanted, atol=1e-6)


def test_ties_at_the_edge_of_top_k_stay() -> None:
    assert (probabilities(np.array([5, 5, 5, 1], np.float32), Sampling(temperature=1, top_k=2)) > 0).sum() == 3


def test_huge_logits_and_tiny_temperatures_do_not_overflow() -> None:
    got = probabilities(np.array([1e30, -1e30, 1e30], np.float32), Sampling(temperature=1e-6))
    np.testing.assert_array_equal(got, [0.5, 0, 0.5])
    assert Sampler(Sampling(temperature=1, seed=0))(np.array([-np.inf, 3], np.float32), 0) == 1


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    draws = [[sampler(LOGITS, step) for step in range(4000)] for sampler in (seeded(7), seeded(7), seeded(8))]
    assert draws[0] == draws[1] != draws[2]
    counts = np.bincount(draws[0], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.1, 0.4, 0.2, 0.3], atol=4 * 0.5 / 4000**0.5)


def seeded(seed: int) -> Sampler:
    return Sampler(Sampling(temperature=1.0, seed=seed))


@pytest.mark.parametrize("bad", [[0, np.nan, 1], [np.inf, 0, 1], [-np.inf, -np.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_a_failed_check(bad: list[float], temperature: float) -> None:
    with pytest.raises(CheckFailed) as caught:
        Sampler(Sampling(temperature=temperature))(np.array(bad, np.float32), 3)
    assert caught.value.exit_code == 1
    assert caught.value.where == "answer token 3"
    assert f"of {len(bad)} values" in str(caught.value.got)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1}, "temperature: got -1, expected a finite number of at least 0"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"temperature": "hot"}, "temperature: got 'hot'"),
        ({"temperature": 1, "top_k": -1}, "top_k: got -1"),
        ({"temperature": 1, "top_k": 2.5}, "top_k: got 2.5"),
        ({"temperature": 1, "top_p": 0}, "top_p: got 0, expected a fraction in (0, 1]"),
        ({"temperature": 1, "top_p": 1.5}, "top_p: got 1.5"),
        ({"seed": -1}, "seed: got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0, expected None or at least 1"),
        ({"max_new_tokens": True}, "max_new_tokens: got True"),
        ({"stop": ("",)}, "stop: got ('',), expected strings that are not empty"),
        ({"stop": (7,)}, "stop: got (7,)"),
        ({"top_k": 5}, "temperature 0 draws nothing"),
        ({"top_p": 0.5}, "temperature 0 draws nothing"),
        ({"regex": "a", "grammar": 'start: "a"'}, "mask, json_schema, regex and grammar exclude each other"),
        ({"grammar": ""}, "grammar: got '', expected a grammar"),
        ({"ignore_eos": 1}, "ignore_eos: got 1, expected True or False"),
        ({"ignore_eos": True, "regex": "a"}, "ignore_eos goes on where json_schema, regex or grammar have"),
        ({"stop_token_ids": [-1]}, "stop_token_ids: got [-1], expected a list of token ids"),
        ({"temprature": 1.0}, "did you mean temperature?"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        sampling_from(options)
    assert words in str(caught.value)


def test_ends_of_an_answer() -> None:
    own = frozenset((1, 2))
    assert Sampling().ends(own) == own and Sampling(stop_token_ids=(7,)).ends(own) == {1, 2, 7}
    assert Sampling(stop_token_ids=(7,), ignore_eos=True).ends(own) == {7}


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(temperature=-1, top_p=2, max_new_tokens=0)
    assert all(name in str(caught.value) for name in ("temperature", "top_p", "max_new_tokens"))


def test_one_stop_string_may_stand_alone() -> None:
    assert Sampling(stop="end").stop == ("end",)  # type: ignore[arg-type]
    assert sampling_from({"stop": ["a", "b"]}).stop == ("a", "b")
