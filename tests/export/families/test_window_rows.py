"""Rows that left a sliding window leave its cache: answers are those of caches that keep all, Gemma 3 and 4."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import family_harness as harness
import numpy as np
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, Case
from family_questions import WINDOW, exportable
from growing import stepped
from numpy.typing import NDArray
from slow_cases import slow_but
from test_family_answers import pictures, session, theirs
from test_family_turns import first_turn, turns
from test_sliding_windows import FAMILIES, Bundles, pruned, sliding
from torch_backend import TorchBackend

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Manifest
from luvc_export.core.budgets import kv_bytes
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import most_rows
from luvc_export.runtime.engine.answers import Answers
from luvc_export.runtime.engine.drafting import Drafting
from luvc_export.runtime.engine.job import Answer, Job
from luvc_export.runtime.engine.prefill import prompt_of
from luvc_export.runtime.generation.sequence import GreedyTokens
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.host import windows
from luvc_export.runtime.model import Capabilities, TokensPrompt
from luvc_export.runtime.session import Session
from luvc_export.runtime.speculation.request import Speculation
from luvc_export.runtime.state import State

#: Tokens of an answer, far more than the window.
COUNT = 30


class Dropping(TorchBackend):
    """The torch modules, whose caches lose rows; ``TorchBackend`` keeps all."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.capabilities = Capabilities(host_caches=True)


def near_rows(graphs: Graphs, cache: Any) -> list[int]:
    """Rows of each layer with a window."""
    layers = sorted({state.layer for state in graphs.backend.states})
    near = graphs.manifest.decoder.most_rows
    return [rows for layer, rows in zip(layers, cache.lengths, strict=True) if layer in near]


def both(tiny: Case, plan: Plan, folder: Path) -> tuple[Graphs, Graphs]:
    """A plan's graphs on the modules: rows leave, and all stay."""
    ours = session(tiny, folder, plan)
    manifest = ours.bundle.manifest
    return Graphs(manifest, plan, Dropping(tiny, plan)), Graphs(manifest, plan, TorchBackend(tiny, plan))


def calls(tiny: Case, random: np.random.Generator) -> list[tuple[list[int], int]]:
    """Turns of text and pictures of any length, steps of one token between them: ids, and how many pictures."""
    script: list[tuple[list[int], int]] = []
    for _ in range(3):
        words, shown = random.integers(3, 200, int(random.integers(4, 40))).tolist(), int(random.integers(0, 2))
        at = int(random.integers(0, len(words)))
        script.append((words[:at] + tiny.written() * shown + words[at:], shown))
        script += [([int(token)], 0) for token in random.integers(3, 200, int(random.integers(1, 12)))]
    return script


def answers(
    tiny: Case, graphs: Graphs, script: list[tuple[list[int], int]]
) -> tuple[list[NDArray[Any]], list[int], int]:
    """Logits after each call, the most rows of any layer with a window after each, and how many pictures."""
    state: State | None = None
    logits, most, images = list[NDArray[Any]](), list[int](), tiny.images(8).numpy()
    first = 0
    for ids, shown in script:
        seen = graphs.encode_images(images[first : first + shown]) if shown else None
        first += shown
        step = graphs.run(ids, seen, state)
        state = step.state
        logits.append(step.logits[0, -1])
        most.append(max(near_rows(graphs, state.cache)))
    return logits, most, first


@pytest.mark.parametrize(
    ("name", "seed"),
    slow_but([("gemma3", 0)], [("gemma3", 0), ("gemma3", 1), ("gemma4", 1), ("gemma4", 2)]),
)
def test_random_conversations_are_answered_as_from_whole_caches(name: str, seed: int, tmp_path: Path) -> None:
    """Any lengths, windows of 8, 12 and 16, with and without prunes; plan none as transformers with all at once."""
    random = np.random.default_rng(seed)
    tiny = sliding(name, (8, WINDOW, 16)[seed])
    plan = (tiny.plan, pruned(tiny))[seed % 2]
    script = calls(tiny, random)
    dropping, keeping = both(tiny, plan, tmp_path)
    (ours, near, shown), (whole, all_rows, _) = answers(tiny, dropping, script), answers(tiny, keeping, script)
    worst = max(harness.difference(*map(torch.from_numpy, pair)) for pair in zip(ours, whole, strict=True))
    assert worst < TOLERANCE
    assert [int(one.argmax()) for one in ours] == [int(one.argmax()) for one in whole]
    bound = max(dropping.manifest.decoder.most_rows.values())
    assert max(near) <= bound < all_rows[-1] and near[-1] < all_rows[-1]
    if plan == tiny.plan:
        ids = [token for call, _ in script for token in call]
        expected = harness.reference_logits(tiny, harness.reference(tiny, ids, tiny.images(8)[:shown]))[-1]
        assert harness.difference(torch.from_numpy(ours[-1]), expected) < TOLERANCE


@pytest.mark.parametrize("name", slow_but(["gemma3"], FAMILIES))
def test_one_row_too_many_moves_the_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage of the test above."""
    tiny, exact = sliding(name), windows.rows_in_sight

    def greedier(places: Any, text_mask: Any, orders: Any, window: int) -> Any:
        return exact(places, text_mask, orders, window - 1)

    monkeypatch.setattr(windows, "rows_in_sight", greedier)
    script = calls(tiny, np.random.default_rng(1))
    (ours, *_), (whole, *_) = (answers(tiny, graphs, script) for graphs in both(tiny, tiny.plan, tmp_path))
    assert max(harness.difference(*map(torch.from_numpy, pair)) for pair in zip(ours, whole, strict=True)) > SABOTAGE


@pytest.mark.parametrize("name", slow_but(["gemma3"], FAMILIES))
def test_rows_of_a_padded_batch_lose_what_none_of_them_sees(name: str, tmp_path: Path) -> None:
    tiny = sliding(name)
    rows_left = []
    logits: list[list[NDArray[Any]]] = []
    for graphs in both(tiny, pruned(tiny), tmp_path):
        passages = [TokensPrompt([*tiny.prompt(1), *range(5, 5 + words)]) for words in (30, 3)]
        step = graphs.prefill(passages, graphs.encode_images(tiny.images(2).numpy()))
        logits.append([step.logits])
        for token in range(40):
            step = stepped(graphs, [token + 5, token + 9], step.state)
            logits[-1].append(step.logits)
        rows_left.append(max(near_rows(graphs, step.state.cache)))
    ours, whole = (torch.from_numpy(np.stack(one)) for one in logits)
    assert harness.difference(ours, whole) < TOLERANCE
    assert rows_left[0] <= rows_left[1] - 40


@pytest.mark.parametrize("name", FAMILIES)
def test_turns_past_the_window_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """A chat's second turn on caches that lost rows, and from one answer twice."""
    tiny = sliding(name)
    ours, shown = session(tiny, tmp_path, tiny.plan), pictures(tiny, 2)
    ours = Session(ours.bundle, Dropping(tiny, tiny.plan))
    first, answer = first_turn(ours, shown)
    expected = theirs(tiny, turns(answer), shown)[1][:8]
    for _ in range(2):
        second = ours.generate(shown, messages=turns(answer), after=first, max_new_tokens=8)
        assert second.reused > WINDOW and list(second.token_ids) == expected


def words_of(seed: int) -> list[int]:
    """What an answer is forced to be: of a random model's own choice every token would be alike."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, 200, COUNT)]


def begun(ours: Session, answers: Answers, request: Any, seed: int) -> Answer:
    """An answer that grows, with its first token."""
    chooser = GreedyTokens(COUNT, forced=words_of(seed), keep_logits=True, prompt=request.token_ids)
    answer = Answer(chooser, Job(ours.default, request, lambda room: [chooser], keeps=True))
    (joined,) = answers.slots.join([prompt_of(request, ours.default.encode_images(request.images))])
    answers.begin(joined.slot, answer, joined.logits)
    return answer


def logits_of(answer: Answer) -> torch.Tensor:
    """After every token, [COUNT, vocab]."""
    assert isinstance(answer.chooser, GreedyTokens)
    return torch.from_numpy(np.stack(answer.chooser.logits))


def alone(ours: Session, request: Any, seed: int) -> tuple[torch.Tensor, Any]:
    """Logits of an answer that is alone, and its caches after it."""
    answers = Answers(ours.default.graphs, several=False)
    answer = begun(ours, answers, request, seed)
    while answers.growing:
        answers.step()
        answers.leave(answers.ended)
    assert answer.state is not None
    return logits_of(answer), answer.state.cache


def exact(tiny: Case, bundle: Bundle, request: Any, seed: int) -> tuple[torch.Tensor, Any]:
    """The same of the torch modules, which keep all rows."""
    graphs = Graphs(bundle.manifest, tiny.thirds, TorchBackend(tiny, tiny.thirds))
    step = graphs.run(request.token_ids, graphs.encode_images(request.images))
    logits = [step.logits[0, -1]]
    for token in words_of(seed)[:-1]:
        step = graphs.run([token], state=step.state)
        logits.append(step.logits[0, -1])
    return torch.from_numpy(np.stack(logits)), step.state.cache


@pytest.mark.parametrize(
    ("name", "backend"), slow_but(["gemma3"], [("gemma3", "cpu"), ("gemma4", "cpu"), ("gemma3", "openvino")])
)
def test_graphs_take_what_is_left(name: str, backend: str, bundles: Bundles) -> None:
    """Answers longer than the window, alone and in rows that come and go, of which fewer have left."""
    if backend != "cpu":
        pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    tiny, bundle = exportable(name), bundles(name)
    ours = Session(bundle, backend, threads=1, arithmetic="auto" if backend == "cpu" else "fp32")
    shown, whole = pictures(tiny, 2), list[torch.Tensor]()
    asked = [ours.prepare(shown[:1], text) for text in ("Hi", "word " * 9)]
    for seed, request in enumerate(asked):
        logits, cache = alone(ours, request, seed)
        expected, all_rows = exact(tiny, bundle, request, seed)
        whole.append(expected)
        assert harness.difference(logits, expected) < TOLERANCE and cache.nbytes < 0.9 * all_rows.nbytes
        assert max(near_rows(ours.default.graphs, cache)) <= most_rows(WINDOW)
    answers = Answers(ours.default.graphs, several=True)
    first = begun(ours, answers, asked[0], 0)
    for _ in range(COUNT // 2):
        answers.step()
    second = begun(ours, answers, asked[1], 1)
    while answers.growing:
        answers.step()
        answers.leave(answers.ended)
    text, plan = len(asked[1].token_ids) - 1 + COUNT - 1, tiny.thirds
    assert cache.nbytes <= sum(kv_bytes(bundle.manifest.decoder, plan.keep, text, 4)) < all_rows.nbytes
    for row, expected in zip((first, second), whole, strict=True):
        assert harness.difference(logits_of(row), expected) < TOLERANCE


def test_two_back_ends_hand_over_what_is_left(bundles: Bundles) -> None:
    """Prompts in 16 bits where the CPU has them: rows are bounded on both sides, and a turn after goes on from them."""
    pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    tiny, ours = exportable("gemma3"), Session(bundles("gemma3"), "openvino+cpu", threads=1)
    request = ours.prepare(pictures(tiny, 1), "word " * 9)
    step = ours.default.run(request.token_ids, ours.default.encode_images(request.images))
    bound, graphs = most_rows(WINDOW), ours.default.graphs
    assert max(near_rows(graphs, step.state.cache)) <= bound
    for tokens in ([7], [8], [*range(5, 40)], [9]):
        step = ours.default.run(tokens, state=step.state)
        assert np.isfinite(step.logits).all() and max(near_rows(graphs, step.state.cache)) <= bound


def test_a_bundle_of_before_keeps_all_rows(bundles: Bundles) -> None:
    """Its graphs take equally many of every layer."""
    tiny, bundle = exportable("gemma3"), bundles("gemma3")
    states = tuple(replace(state, window=None) for state in bundle.manifest.decoder.states)
    before = bundle.manifest.without_sets(bundle.manifest.plans)
    manifest = replace(before, decoder=replace(before.decoder, states=states))
    versions = [one.to_json()["schema_version"] for one in (manifest, before, bundle.manifest)]
    assert versions == [3, 4, 5]
    ours = Session(Bundle(bundle.folder, Manifest.from_json(manifest.to_json(), "luvc.json")), "cpu", threads=1)
    request = ours.prepare(pictures(tiny, 1), "word " * 9)
    logits, cache = alone(ours, request, 0)
    expected, all_rows = exact(tiny, bundle, request, 0)
    assert harness.difference(logits, expected) < TOLERANCE and cache.lengths == all_rows.lengths


@pytest.mark.parametrize(
    ("name", "backend"), slow_but([("gemma3", "cpu")], [("gemma3", "cpu"), ("gemma4", "cpu"), ("gemma4", "openvino")])
)
def test_drafts_that_are_taken_back_need_no_row_that_left(name: str, backend: str, bundles: Bundles) -> None:
    if backend != "cpu":
        pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
    tiny, words, random = exportable(name), words_of(0), np.random.default_rng(0)
    ours = Session(bundles(name), backend, threads=1, arithmetic="auto" if backend == "cpu" else "fp32")
    request, taken_back = ours.prepare(pictures(tiny, 1), "word " * 9), 0
    ours.default.speculation = Speculation.parse("lookup:4")
    drafting = Drafting(ours.default)
    answers = Answers(ours.default.graphs, several=False, drafting=drafting)
    answer = begun(ours, answers, request, 0)

    class PartlyRight:
        """Drafts whose first tokens are right."""

        def propose(self, answer: Any, room: int, certain: Any = ()) -> list[int]:
            right = words[len(answer) : len(answer) + min(room, int(random.integers(0, 3)))]
            return [*right, *[201] * (room - len(right))]

        def record_outcome(self, drafted: int, accepted: int) -> None:
            pass

    drafting._drafters[answer] = PartlyRight()
    while answers.growing:
        _, counts = answers.step()
        assert counts is not None
        taken_back += counts.drafted - counts.accepted
        if not answer.ended:
            cache = answers.slots.snapshot(0).cache
            assert max(near_rows(ours.default.graphs, cache)) < max(cache.lengths)
        answers.leave(answers.ended)
    assert harness.difference(logits_of(answer), exact(tiny, bundles(name), request, 0)[0]) < TOLERANCE
    assert taken_back > 20
