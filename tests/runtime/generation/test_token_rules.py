"""Rules of ``generation_config.json`` against transformers' processors, and how defaults and what is asked combine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation import logits_process as theirs

from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.runtime.generation.sampler import Sampler
from luvc_export.runtime.generation.sampling import Sampling, sampling_from, sampling_of_request
from luvc_export.runtime.generation.token_rules import TokenRules

VOCAB, ENDS = 12, frozenset({2, 3})
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=3)


def processors(rules: TokenRules, prompt: int, longest: int) -> list[Any]:
    """Transformers' own, in the order of ``_get_logits_processor``."""
    ends, chain = sorted(ENDS), []
    if rules.no_repeat_ngram_size:
        chain.append(theirs.NoRepeatNGramLogitsProcessor(rules.no_repeat_ngram_size))
    if rules.bad_words_ids:
        chain.append(theirs.NoBadWordsLogitsProcessor([list(word) for word in rules.bad_words_ids], ends))
    if rules.min_new_tokens:
        chain.append(theirs.MinNewTokensLengthLogitsProcessor(prompt, rules.min_new_tokens, ends))
    if rules.forced_eos_token_id:
        chain.append(theirs.ForcedEOSTokenLogitsProcessor(prompt + longest, list(rules.forced_eos_token_id)))
    if rules.suppress_tokens:
        chain.append(theirs.SuppressTokensLogitsProcessor(list(rules.suppress_tokens)))
    if rules.begin_suppress_tokens:
        chain.append(theirs.SuppressTokensAtBeginLogitsProcessor(list(rules.begin_suppress_tokens), prompt))
    return chain


@given(
    st.builds(
        TokenRules,
        st.integers(0, 3),
        st.lists(tokens.filter(bool).map(tuple), max_size=4).map(tuple).filter(lambda words: words != ((2,),)),
        tokens.map(tuple),
        tokens.map(tuple),
        st.lists(st.sampled_from(sorted(ENDS)), max_size=2, unique=True).map(tuple),
        st.integers(0, 3),
    ),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6),
    st.lists(st.integers(0, VOCAB - 1), max_size=5),
)
def test_rules_are_transformers(rules: TokenRules, prompt: list[int], generated: list[int]) -> None:
    longest = len(generated) + 1
    if all(len(word) == 1 and word[0] in ENDS for word in rules.bad_words_ids):
        rules = TokenRules(**{**rules.__dict__, "bad_words_ids": ()})  # transformers refuses what nothing is left of
    logits = np.random.default_rng(0).normal(size=VOCAB).astype(np.float32)
    ids, scores = torch.tensor([[*prompt, *generated]]), torch.from_numpy(logits)[None].clone()
    for processor in processors(rules, len(prompt), longest):
        scores = processor(ids, scores)
    before = logits.copy()
    np.testing.assert_array_equal(rules.apply(logits, prompt, generated, ENDS, longest), scores[0].numpy())
    np.testing.assert_array_equal(logits, before)


def test_a_rule_changes_what_is_chosen_and_all_forbidden_is_said() -> None:
    logits = np.array([0, 1, 2, 3], np.float32)
    assert Sampler(Sampling(suppress_tokens=[3]))(logits, 0) == 2
    assert Sampler(Sampling(bad_words_ids=[[1, 3]]), prompt=[0, 1])(logits, 0) == 3 - 1
    assert Sampler(Sampling(min_new_tokens=1), ends=frozenset({3}))(logits, 0) == 2
    assert not Sampling(min_new_tokens=1).takes_the_best and Sampling().takes_the_best
    with pytest.raises(CheckFailed, match=r"the sampling options allow no token(.|\n)*greedy=True"):
        Sampler(Sampling(suppress_tokens=range(4)))(logits, 0)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"bad_words_ids": [[]]}, "bad_words_ids: got"),
        ({"suppress_tokens": [-1]}, "suppress_tokens: got"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size: got -1"),
        ({"greedy": 1}, "expected: True or False"),
        ({"greedy": True, "temperature": 1.0}, "greedy takes the most likely token, a temperature draws"),
    ],
)
def test_wrong_rules_are_refused(options: dict[str, Any], refusal: str) -> None:
    with pytest.raises(UsageError, match=refusal):
        sampling_from(options)


DRAWN = GenerationDefaults(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05, max_new_tokens=9)


def test_what_is_asked_goes_before_the_models_own() -> None:
    sampling = sampling_from({}, DRAWN)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty) == (0.7, 20, 0.8, 1.05)
    assert sampling.max_new_tokens == 9 and sampling_from({"max_new_tokens": 3}, DRAWN).max_new_tokens == 3
    assert sampling_from({"top_k": 5}, DRAWN).top_k == 5
    assert sampling_from({"regex": "a+"}, DRAWN).max_new_tokens is None, "a guided answer would be cut"
    best = sampling_from({"temperature": 0}, DRAWN)
    assert (best.top_k, best.top_p, best.repetition_penalty) == (None, 1.0, 1.05), "penalties stay, draws go"
    assert sampling_from({"greedy": True}, DRAWN) == Sampling() == sampling_from({}, GenerationDefaults())
    assert sampling_from({"greedy": True}, DRAWN).takes_the_best
    assert sampling_from({"greedy": False}, DRAWN) == sampling


def test_a_request_that_draws_needs_no_temperature() -> None:
    assert sampling_of_request({"top_p": 0.5, "temperature": None}).temperature == 1.0
    assert sampling_of_request({"top_p": 0.5}, DRAWN).temperature == 0.7
    assert sampling_of_request({"top_p": 0.5, "temperature": 0}, DRAWN).top_p == 1.0
    assert sampling_of_request({}, DRAWN) == sampling_from({}, DRAWN)


def test_fifty_is_what_transformers_draws_from_unasked() -> None:
    from luvc_export.export import exported_manifest

    resolved = GenerationConfig()._get_default_generation_params()
    assert {name: resolved[name] for name in exported_manifest._DRAWN} == exported_manifest._DRAWN
