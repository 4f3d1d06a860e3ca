"""Every gate is shown a fault it must catch: a gate that cannot fail is a defect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from luvc_export.calibration.cases import Case
from luvc_export.calibration.parity.metrics import alike
from luvc_export.calibration.parity.result import ParityResult
from luvc_export.calibration.parity.run import parity
from luvc_export.calibration.quantise.agreement import Remembered
from luvc_export.calibration.runners.compressed import settled
from luvc_export.calibration.runners.graph import GraphRunner
from luvc_export.calibration.tasks import find
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.demo import IMAGE_SIZE
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.compression import oim
from luvc_export.export.llm import sight
from luvc_export.pipeline import make_plan

Make = Callable[[Plan], GraphRunner]


class Known(Remembered):
    """Answers once: what is spoilt is never the reference."""

    @property
    def calls(self) -> Any:
        return self.runner.calls  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def reference(reference: Any) -> Known:
    return Known(reference)


def run(reference: Any, candidate: Any, cases: Sequence[Case]) -> ParityResult:
    task = find("glyph")
    return parity(reference, candidate, cases, observe=len(cases), longest=task.longest, stops=task.stops, batch=2)


def failed(result: ParityResult) -> set[str]:
    return {gate.name for gate in result.gates if not gate.passed}


def located(result: ParityResult) -> str:
    assert result.located is not None
    return result.located.tensor


def test_two_equal_models_pass_every_gate(reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]) -> None:
    result = run(reference, compressed(plan), cases)
    assert failed(result) == set()
    assert result.located is None
    assert {gate.level for gate in result.gates} == {"tensors", "tokens", "answers"}
    assert result.lines()[-1] == f"PASSED | all {len(result.gates)} gates"


def test_one_swapped_kept_token(reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]) -> None:
    runner = compressed(plan)
    layer = next(layer for layer, _, keep in plan.prunes if keep)
    honest, decoder = runner.calls.decoder.score, runner.calls.decoder
    swapped = 0

    def score(inputs: Any) -> torch.Tensor:
        nonlocal swapped
        values = honest(inputs).clone()
        if values.shape[-1] == plan.vision_tokens and not swapped and values.shape[1]:
            order = values[0, 0].argsort(descending=True)
            values[0, 0, order[plan.keep[layer] - 3]] = values[0, 0].min() - 1
            swapped += 1
        return values

    decoder.score = score
    result = run(reference, runner, cases)
    assert swapped == 1
    assert "kept tokens that no tie explains" in failed(result)
    assert not failed(result) & {"relative L2", "cosine"}
    assert result.comparison.measured[0].overlap[layer].unexplained == 1
    assert result.comparison.measured[0].forced


def test_one_swapped_token_of_a_choice_in_rounds(
    checkpoint: Checkpoint, compressed: Make, cases: Sequence[Case]
) -> None:
    """Ranks by rounds tie by the hundred: what rounding does not move is held to all the same."""
    safe = make_plan(checkpoint, "safe", image_size=IMAGE_SIZE)
    honest, runner = compressed(safe), compressed(safe)
    assert failed(run(honest, runner, cases)) == set()
    rank = runner.calls.decoder.score

    def score(inputs: Any) -> torch.Tensor:
        values = rank(inputs).clone()
        firm = [int((row == 2).nonzero()[0]) for row in settled(rank, inputs)[:, 0]]
        values[range(len(firm)), 0, firm] = -1.0
        return values

    runner.calls.decoder.score = score
    result = run(honest, runner, cases)
    assert "kept tokens that no tie explains" in failed(result)
    assert [item.unexplained for one in result.comparison.measured for item in one.overlap.values()] == [1] * len(cases)


@pytest.fixture
def crossed(compressed: Make, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> GraphRunner:
    """A model whose last merge, after its last block, decides in every column as it should in the next one."""
    runner = compressed(plan)
    honest, vision = oim.assign, runner.calls.vision
    passes = sum((step.rows > 0) + (step.columns > 0) for step in plan.encoder.merges)

    def crossing(images: Any, padding: Any) -> Any:
        left = passes

        def assign(x: torch.Tensor, removed: int, sizes: torch.Tensor | None = None) -> torch.Tensor:
            nonlocal left
            left -= 1
            return honest(x if left else x.roll(1, 0), removed, sizes)

        with monkeypatch.context() as patch:
            patch.setattr(oim, "assign", assign)
            return vision(images, padding)

    monkeypatch.setattr(runner.calls, "vision", crossing)
    return runner


def test_units_that_merge_with_others(reference: Any, crossed: GraphRunner, cases: Sequence[Case]) -> None:
    """That is said once, and does not count as a difference of every tensor after it."""
    result = run(reference, crossed, cases)
    assert "units merged alike" in failed(result)
    assert not failed(result) & {"relative L2", "worst row, relative L2", "cosine", "KL of predictions"}
    measured = result.comparison.measured[0]
    assert measured.forced and measured.merged is not None and measured.merged[1] < measured.merged[0]
    assert all(item.unexplained == 0 for item in measured.overlap.values())


def test_a_wrong_token_among_units_that_merge_with_others(
    reference: Any, crossed: GraphRunner, cases: Sequence[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of other units are left out of the comparison, and no others are."""
    vision = crossed.calls.vision

    def wrong(images: Any, padding: Any) -> Any:
        embeds, positions, merged = vision(images, padding)
        same = alike(reference.calls.vision(images, padding)[2], merged)
        assert same is not None and not same.all
        embeds = embeds.copy()
        embeds[0, same.rows[0, 1]] *= 1.01
        return embeds, positions, merged

    monkeypatch.setattr(crossed.calls, "vision", wrong)
    assert {"units merged alike", "worst row, relative L2"} <= failed(run(reference, crossed, cases))


def test_with_forced_indices_a_swap_leaves_the_tensors_alone(
    reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]
) -> None:
    runner = compressed(plan)
    honest = runner.calls.decoder.score
    runner.calls.decoder.score = lambda inputs: -honest(inputs)
    result = run(reference, runner, cases)
    assert {"kept-set overlap", "kept tokens that no tie explains"} <= failed(result)
    assert not failed(result) & {"relative L2", "cosine", "KL of predictions", "top-1 agreement"}


@pytest.mark.parametrize("block", [0, 4])
def test_a_weight_scaled_by_1_01(
    reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case], block: int
) -> None:
    runner = compressed(plan)
    with torch.no_grad():
        runner.calls.decoder.layers[block].mlp.down_proj.weight.mul_(1.01)
    result = run(reference, runner, cases)
    assert "relative L2" in failed(result)
    assert located(result) == f"layer {block + 1} in"
    assert "FAILED" in result.lines()[-1] and any("first departs" in line for line in result.lines())


def test_a_scaled_key_projection_is_located_at_its_key(
    reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]
) -> None:
    runner = compressed(plan)
    with torch.no_grad():
        runner.calls.decoder.layers[2].self_attn.k_proj.weight.mul_(1.01)
    result = run(reference, runner, cases)
    assert located(result) == "layer 2 key"
    assert "key projection" in result.located.suspect  # type: ignore[union-attr]


def test_a_scaled_encoder_weight_is_located_in_vision(
    reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]
) -> None:
    runner = compressed(plan)
    with torch.no_grad():
        weights = dict(runner.calls.encoder.named_parameters())
        next(weights[name] for name in weights if "blocks.1." in name and "down_proj.weight" in name).mul_(1.01)
    assert located(run(reference, runner, cases)) == "vision"


def test_a_nan(reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]) -> None:
    runner = compressed(plan)
    with torch.no_grad():
        runner.calls.decoder.layers[3].mlp.down_proj.weight[0, 0] = float("nan")
    result = run(reference, runner, cases)
    assert {"elements that are not finite", "relative L2", "cosine", "KL of predictions"} <= failed(result)
    assert located(result) == "layer 4 in"


def test_a_wrong_second_element_of_a_batch(reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]) -> None:
    runner = compressed(plan)
    honest = runner.calls.decode

    def decode(feeds: Any, cache: Any, forced: Any) -> Any:
        out = honest(feeds, cache, forced)
        if len(out.logits) < 2:
            return out
        logits = out.logits.copy()
        logits[1] = logits[0, ::-1]
        return dataclasses.replace(out, logits=logits)

    runner.calls.decode = decode
    result = run(reference, runner, cases)
    assert {"relative L2", "KL of predictions", "top-1 agreement"} <= failed(result)
    assert [item.tensors["logits"].rel_l2 < 1e-4 for item in result.comparison.measured] == [True, False] * 2


@pytest.mark.parametrize("name", [graph_io.POSITION_IDS, graph_io.VISUAL_POSITION_IDS])
def test_shifted_position_ids(reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case], name: str) -> None:
    runner = compressed(plan)
    honest = runner.calls.decode
    runner.calls.decode = lambda feeds, cache, forced: honest({**feeds, name: feeds[name] + 1}, cache, forced)
    result = run(reference, runner, cases)
    assert {"relative L2", "cosine"} <= failed(result)
    assert located(result) == "layer 0 key"


def test_an_off_by_one_mask(
    reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = compressed(plan)
    honest_mask, honest_decode = sight.causal_mask, runner.calls.decode

    def mask(*orders: Any) -> torch.Tensor:
        exact = honest_mask(*orders)
        return exact | exact.roll(-1, 2)  # every token also sees what its neighbour sees

    def decode(*args: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(sight, "causal_mask", mask)
            return honest_decode(*args)

    runner.calls.decode = decode
    result = run(reference, runner, cases)
    assert {"relative L2", "cosine"} <= failed(result)
    assert located(result) == "layer 1 in"


def test_a_wrong_answer_fails_the_answers(reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]) -> None:
    runner = compressed(plan)
    honest = runner.answer
    runner.answer = lambda some, longest: [  # type: ignore[method-assign]
        dataclasses.replace(answer, text="wrong!", tokens=(0,)) for answer in honest(some, longest)
    ]
    result = run(reference, runner, cases)
    assert failed(result) == {"greedy agreement", "same text", "retention"}
    assert all(item.diverged == 0 and item.edits >= 3 for item in result.comparison.answered)


def test_nothing_compared_fails(reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]) -> None:
    runner = compressed(plan)
    honest = runner.observe
    runner.observe = lambda some, forced=None: [  # type: ignore[method-assign]
        dataclasses.replace(item, tensors={}) for item in honest(some, forced)
    ]
    assert "cases compared" in failed(run(reference, runner, cases))


def test_another_shape_fails(reference: Any, compressed: Make, plan: Plan, cases: Sequence[Case]) -> None:
    runner = compressed(plan)
    honest = runner.observe
    runner.observe = lambda some, forced=None: [  # type: ignore[method-assign]
        dataclasses.replace(item, tensors={n: np.pad(t, ((0, 0), (0, 1))) for n, t in item.tensors.items()})
        for item in honest(some, forced)
    ]
    assert {"relative L2", "cosine", "KL of predictions", "top-1 agreement"} <= failed(run(reference, runner, cases))
