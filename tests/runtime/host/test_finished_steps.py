"""Finished decoders: steps over caches in two inputs are those over caches in one piece, on either engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growing import stepped

from luvc_export.bundle.folder import Bundle, load
from luvc_export.core.graph_io import NEWEST, STEP
from luvc_export.core.target import FINISHED
from luvc_export.export.surgeon.finish import finish
from luvc_export.runtime.host import cache as host_cache
from luvc_export.runtime.host.cache import HostCache
from luvc_export.runtime.model import Backend, TokensPrompt
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")
ENGINES = ("cpu", "openvino")
PROMPTS = ([97, 98, 99, 100, 101], [98, 99])
#: Logits of the bundled model are about 10; sums are in another order.
TOLERANCE = 1e-3


def backend(engine: str, bundle: Bundle, plan: str, only_steps: bool) -> Backend:
    entry = bundle.entry(plan)
    if engine == "cpu":
        return OrtBackend(bundle, entry, threads=1, only_steps=only_steps)
    return OpenVinoBackend(bundle, entry, threads=1, arithmetic="fp32", only_steps=only_steps)


def graphs(engine: str, bundle: Bundle, plan: str, only_steps: bool) -> Any:
    return Session(bundle, backend(engine, bundle, plan, only_steps), plan).default.graphs


def unfinished(bundle: Bundle) -> Bundle:
    """The bundle as an older version would have written it."""
    return replace(bundle, manifest=bundle.manifest.without_sets(bundle.manifest.plans))


@pytest.fixture(scope="module")
def whole(short_bundle: Bundle) -> Callable[[str, str], Any]:
    """The graphs of a plan as exported, opened once."""
    return cache(lambda engine, plan: graphs(engine, unfinished(short_bundle), plan, False))


def furthest(engine: str, bundle: Bundle, plan: str, plain: Any) -> float:
    """How far logits of steps in two parts are from ``plain``: rows of several lengths, and drafts."""
    steps = graphs(engine, bundle, plan, True)
    ours = theirs = plain.prefill([TokensPrompt(one) for one in PROMPTS]).state
    worst = 0.0
    for tokens in ([102, 103], [104, 105], [106, 107], [108, 109]):
        mine, other = stepped(steps, tokens, ours), stepped(plain, tokens, theirs)
        worst = max(worst, float(np.abs(mine.logits - other.logits).max()))
        ours, theirs = mine.state, other.state
    fed = [[101, 102, 103], [104, 105]]
    drafted, known = (calls.verify(fed, state)[0] for calls, state in ((steps, ours), (plain, theirs)))
    for row, tokens in enumerate(fed):
        worst = max(worst, float(np.abs(drafted[row, : len(tokens)] - known[row, : len(tokens)]).max()))
    return worst


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("plan", "most"), [("thirds", 2), ("none", 64)])
def test_steps_compute_what_attention_does(
    short_bundle: Bundle, whole: Any, engine: str, plan: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a batch and drafts, with newest rows that have joined those that stand, and without."""
    monkeypatch.setattr(host_cache, "MOST_NEWEST", most)
    assert furthest(engine, short_bundle, plan, whole(engine, plan)) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_newest_rows_that_are_lost_move_answers(
    short_bundle: Bundle, whole: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: zeros in the newest rows' place."""
    honest = HostCache.feeds

    def emptied(self: HostCache, inputs: Any, kind: Any) -> dict[str, Any]:
        values = honest(self, inputs, kind)
        newest = {name: np.zeros_like(kind.read(value)) for name, value in values.items() if name.endswith(NEWEST)}
        return values | {name: kind.make(array, name) for name, array in newest.items()}

    monkeypatch.setattr(HostCache, "feeds", emptied)
    assert furthest(engine, short_bundle, "none", whole(engine, "none")) > 10 * TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_writes_its_rows_alone(short_bundle: Bundle, engine: str) -> None:
    first = graphs(engine, short_bundle, "none", False).prefill([TokensPrompt([97] * 9)]).state
    calls = graphs(engine, short_bundle, "none", True)
    two = stepped(calls, [99], stepped(calls, [98], first).state).state
    assert all(one is other for one, other in zip(first.cache.values, two.cache.values, strict=True))
    kind = two.cache.kind
    assert {kind.shape(newest)[2] for newest in two.cache.newest} == {2} and set(two.cache.lengths) == {11}
    assert two.cache.nbytes == first.cache.nbytes * 11 // 9
    for one, other in zip(two.cache.arrays(), first.cache.arrays(), strict=True):
        assert one.shape[2] == 11 and np.array_equal(one[:, :, :9], other)
    kept = two.cache.some(dict.fromkeys((0, 1), np.array([0, 10])))
    assert kept.lengths[0] == 2 and np.array_equal(kept.array(0), two.cache.array(0)[:, :, [0, 10]])
    again = two.cache.like(two.cache.arrays())
    assert again.lengths == two.cache.lengths and not again.newest


@pytest.mark.parametrize("engine", ENGINES)
def test_joined_rows_hold_no_older_ones(short_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """A long answer keeps one cache, not one for each time that newest rows joined it."""
    monkeypatch.setattr(host_cache, "MOST_NEWEST", 1)
    calls = graphs(engine, short_bundle, "none", False)
    state = calls.run([97] * 3).state
    for _ in range(6):
        state = calls.run([98], state=state).state
    assert set(state.cache.lengths) == {9} and len(state.cache.newest) in (0, len(state.cache.values))
    assert sum(array.nbytes for array in state.cache.arrays()) == state.cache.nbytes


def test_a_draft_behind_a_token_attends_to_what_it_would_alone(short_bundle: Bundle) -> None:
    """Rows of a shared head have the masks of their tokens: each attends to itself and what came before."""
    own = graphs("openvino", short_bundle, "none", False)
    prompts = [[97] * (STEP + 2), [98, 99, 100]]
    state, fed = own.prefill([TokensPrompt(prompt) for prompt in prompts]).state, [[101, 102, 103], [104, 105]]
    logits, _ = own.verify(fed, state)
    for row, (prompt, tokens) in enumerate(zip(prompts, fed, strict=True)):
        alone = own.run([*prompt, *tokens], all_logits=True).logits[0, len(prompt) :]
        assert np.abs(logits[row, : len(tokens)] - alone).max() < TOLERANCE


def test_bundles_of_before_answer_and_say_what_makes_them_faster(short_bundle: Bundle) -> None:
    old = unfinished(short_bundle)
    for name in ("openvino", "openvino+cpu"):
        one, other = (Session(bundle, name, "thirds", 1, arithmetic="fp32") for bundle in (short_bundle, old))
        wanted = one.generate(None, "ab", max_new_tokens=6, min_new_tokens=6).token_ids
        assert other.generate(None, "ab", max_new_tokens=6, min_new_tokens=6).token_ids == wanted
        assert not any("older version" in note for note in one.notes)
        assert any(f"luvc-export build {old.folder} --target intel-cpu" in note for note in other.notes)


def test_every_stage_of_finishing_is_told_to_its_end(short_bundle: Bundle, tmp_path: Path) -> None:
    """A terminal draws a bar a stage: those of finishing stayed empty or half, and their clocks ran on."""
    shares: dict[str, list[float]] = {}
    shutil.copytree(short_bundle.folder, tmp_path / "bundle")
    bundle = load(tmp_path / "bundle")
    for name in {name for one in bundle.manifest.sets for name in one.files} - {bundle.entry("thirds").decoder}:
        (bundle.folder / name).unlink()
    finish(bundle, ["thirds"], progress=lambda stage, done: shares.setdefault(stage, []).append(done))
    assert shares == {f"finishing decoder.thirds for {target}": [0.0, 1.0] for target in FINISHED}
