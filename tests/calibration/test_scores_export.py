"""Baselines are ordinary scores: in ONNX they keep what torch keeps, in prefill and in decode."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from flat_plans import flat_plan, replan
from research_page import followed
from safetensors.torch import save
from slow_cases import slow_but

from luvc_export.core import graph_io
from luvc_export.core.plan import EncoderPrune, Plan
from luvc_export.errors import PlanError
from luvc_export.export import families, trace
from luvc_export.export.compression import scores
from luvc_export.export.compression.scorer_file import remember
from luvc_export.export.llm.decoder import Decoder
from luvc_export.export.trace import simplify

GRID, ROWS, IMAGES = (4, 4), 2, 2
#: Tokens kept of each image: more than DART's pivots, so that it looks for their opposites too.
KEEP = 10


def decoder_of(plan: Plan) -> tuple[Decoder, Any]:
    family, model, config = model_of(plan.layers)
    return family.decoder(model, plan).eval(), family.decoder_shape(config)


@cache
def model_of(layers: int) -> tuple[Any, Any, Any]:
    """A family, a model of random weights and its config."""
    family = families.find("qwen2_5_vl", "test")
    config = family.tiny_config()
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = ["full_attention"] * layers
    torch.manual_seed(0)
    model = family.build(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.normal_(0, 1.5 * parameter.shape[1] ** -0.5)
        elif "norm" in name:  # after a norm of equal weights all tokens are equally long
            parameter.uniform_(0.5, 1.5)
    return family, model, config


def feeds(seed: int, images: int = IMAGES, text: int = 5, past: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    visual = GRID[0] * GRID[1] * images
    order = torch.arange(past + visual, past + visual + text).expand(ROWS, -1)
    mask = torch.ones(ROWS, text, dtype=torch.bool)
    mask[1, -1] = text == 1
    row, column = torch.meshgrid(torch.arange(GRID[0]), torch.arange(GRID[1]), indexing="ij")
    place = torch.stack([torch.zeros_like(row), row, column]).flatten(1).float().repeat(1, images)
    return {
        graph_io.VISUAL_EMBEDS: torch.randn(ROWS, images, GRID[0] * GRID[1], 64, generator=draw),
        graph_io.INPUT_IDS: torch.randint(0, 200, (ROWS, text), generator=draw),
        graph_io.VISUAL_POSITION_IDS: place[:, None].expand(3, ROWS, visual).contiguous(),
        graph_io.POSITION_IDS: (order + 3.0).expand(3, -1, -1).contiguous(),
        graph_io.VISUAL_ORDER: torch.arange(visual).expand(ROWS, -1).contiguous(),
        graph_io.ORDER: order.contiguous(),
        graph_io.TEXT_MASK: mask,
        graph_io.LOGITS_INDICES: torch.zeros(ROWS, 1, dtype=torch.int64),
    }


def session(decoder: Decoder, shape: Any, path: Path) -> onnxruntime.InferenceSession:
    model = trace.trace_decoder(decoder, shape, torch.float32)
    simplify(model)
    trace.check(model)
    ranked = [node.inputs[0].producer() for node in model.graph if node.op_type == "TopK"]
    assert ranked and {node.op_type for node in ranked} <= {"Concat", "TopK"}  # ONNX Runtime before 1.31: never no rows
    ir.save(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def pruning(name: str, steps: int = 2) -> Plan:
    plan = flat_plan(GRID, (16, KEEP), last_layer="full", score=name, rho=0.5, steps=steps)
    if "scorer" not in scores.find(name).settings:
        return plan
    maps = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0))
    scorer = remember(save({"query": maps[0].clone(), "key": maps[1].clone()}), "test")
    return replan(plan, scorer=scorer.sha256)


def mixed(names: Sequence[str], steps: int = 2) -> tuple[Decoder, Any]:
    """A decoder whose prune ranks every image by another score: one trace proves them all."""
    decoder, shape = decoder_of(pruning("norm", steps))
    plans = [pruning(name, steps) for name in names]
    bases = [(scores.constant(plan, 1, 16, 64), dict(plan.llm.method.settings)) for plan in plans]

    def score(given: scores.ScoreInput) -> torch.Tensor:
        image = torch.arange(given.normed.shape[1])[:, None]
        ranks = torch.zeros(given.normed.shape[:3])
        for number, (name, (basis, settings)) in enumerate(zip(names, bases, strict=True)):
            own = scores.find(name).score(dataclasses.replace(given, basis=basis, settings=settings))
            ranks = torch.where(image == number, own, ranks)
        return ranks

    decoder.score = score
    return decoder, shape


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[str]:
    """The score that docs/research.md adds from outside this package."""
    (tmp_path / "site").mkdir()
    with followed(tmp_path / "site", "Add a score") as name:
        yield name


@pytest.mark.parametrize("reducer", slow_but(["merge"], ["prune", "merge"]))
def test_onnx_does_what_torch_does(reducer: str, tmp_path: Path, outside: str) -> None:
    names = scores.names()
    assert outside in names and set(scores.built_in()) < set(names)
    if reducer == "prune":
        decoder, shape = mixed(names)
    else:
        decoder, shape = decoder_of(flat_plan(GRID, (6,), last_layer="full", reducer="merge"))
    graph, layers = session(decoder, shape, tmp_path / "decoder.onnx"), decoder.plan.layers
    outputs = [item.name for item in graph.get_outputs()]
    past = [torch.zeros(ROWS, shape.kv_heads, 0, shape.head_dim)] * (2 * layers)
    inputs = feeds(1, len(names))
    for turn in range(2):
        logits, presents, kept = decoder(*inputs.values(), past)
        caches = dict(zip(graph_io.past_names(layers), past, strict=True))
        ran = graph.run(None, {n: t.numpy() for n, t in {**inputs, **caches}.items()})
        out = dict(zip(outputs, ran, strict=True))
        for indices in kept if turn == 0 else []:
            assert indices.shape == (ROWS, len(names), KEEP)
            assert (np.diff(indices.numpy()) > 0).all()
            for image, name in enumerate(names):
                chosen = out[graph_io.kept_name(1)][:, image]
                np.testing.assert_array_equal(chosen, indices[:, image].numpy(), err_msg=name)
                _, _, (alone,) = decoder_of(pruning(name))[0](*inputs.values(), past)
                np.testing.assert_array_equal(chosen, alone[:, image].numpy(), err_msg=f"{name} alone")
        np.testing.assert_allclose(out[graph_io.LOGITS], logits.numpy(), atol=2e-4)
        assert logits.std() > 0.5
        for present, wanted in zip(map(graph_io.present_name, graph_io.past_names(layers)), presents, strict=True):
            np.testing.assert_allclose(out[present], wanted.numpy(), atol=2e-4)
        mask = torch.cat([inputs[graph_io.TEXT_MASK], torch.ones(ROWS, 1, dtype=torch.bool)], 1)
        inputs, past = {**feeds(2, images=0, text=1, past=200), graph_io.TEXT_MASK: mask}, presents


def test_scores_are_found_by_their_files() -> None:
    known = {"random", "stride", "v2drop", "fastv", "dart", "residual", "low", "ratio", "norm", "pyramiddrop"}
    known |= {"scope", "maxmin", "keynorm", "learned"}
    assert set(scores.names()) >= known
    assert [name for name in scores.names() if scores.find(name).reads_text] == ["fastv", "pyramiddrop"]
    with pytest.raises(PlanError, match="did you mean 'v2drop'"):
        scores.find("v2drops")


def test_a_score_of_two_layers_needs_one_before() -> None:
    with pytest.raises(PlanError, match="none before the first prune"):
        decoder_of(flat_plan(GRID, (6, 0), score="fastv"))


def test_a_score_of_movement_refuses_a_layer_that_moves_nothing() -> None:
    plan = flat_plan(GRID, (16, 16, 6), score="v2drop", last_layer="full")
    decoder_of(plan)
    with pytest.raises(PlanError, match=r"the layer before it works on few or none\n.*plan.llm.kv_only"):
        decoder_of(replan(plan, kv_only=(1,)))


def test_units_chosen_in_the_encoder_leave_no_grid_to_choose_by_cells() -> None:
    prune = EncoderPrune(block=3, keep=0.5, restore="none")
    with pytest.raises(PlanError, match="spectrum: '2d' needs the grid"):
        flat_plan(GRID, (8, 4), last_layer="full", score="scope", encoder_prune=prune)
    for plan, grid in ((flat_plan(GRID, (8, 4), last_layer="full", score="maxmin", encoder_prune=prune), None),
                       (flat_plan(GRID, (16, 4), last_layer="full", score="maxmin"), GRID)):  # fmt: skip
        decoder, _ = decoder_of(plan)
        seen: list[scores.ScoreInput] = []
        honest = decoder.score
        decoder.score = lambda ranked, seen=seen, honest=honest: (seen.append(ranked), honest(ranked))[1]
        inputs, count = feeds(3, images=1), plan.span_tokens
        inputs[graph_io.VISUAL_EMBEDS] = inputs[graph_io.VISUAL_EMBEDS][:, :, :count]
        for name in (graph_io.VISUAL_POSITION_IDS, graph_io.VISUAL_ORDER):
            inputs[name] = inputs[name][..., :count]
        *_, (kept,) = decoder(*inputs.values(), [torch.zeros(ROWS, 2, 0, 16)] * 4)
        assert kept.shape == (ROWS, 1, 4) and [heard.grid for heard in seen] == [grid]


def test_attention_scores_are_those_of_the_model() -> None:
    """FastV's row is the attention that transformers' eager model reports for the last token in the layer before."""
    decoder, _ = decoder_of(flat_plan(GRID, (16, 6), score="fastv", last_layer="kv_only"))
    inputs = feeds(3)
    seen: dict[bool, torch.Tensor] = {}
    honest = decoder.score

    def watch(inputs: Any) -> torch.Tensor:
        seen.update({earlier: inputs.context.attention(earlier) for earlier in (False, True)})
        return honest(inputs)

    decoder.score = watch
    past = [torch.zeros(ROWS, 2, 0, 16)] * 4
    decoder(*inputs.values(), past)
    slow = _slow_rows(decoder, inputs)
    for earlier, layer in ((True, 0), (False, 1)):
        torch.testing.assert_close(seen[earlier].flatten(1), slow[layer], atol=1e-5, rtol=1e-4)


def _slow_rows(decoder: Decoder, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Attention rows by recomputing every layer with explicit softmax, one prompt at a time."""
    rows: list[list[torch.Tensor]] = [[] for _ in range(2)]
    from luvc_export.export import layers as ops

    for number in range(ROWS):
        one = {n: t[:, number : number + 1] if "position" in n else t[number : number + 1] for n, t in inputs.items()}
        text = int(one[graph_io.TEXT_MASK].sum())
        taken: list[torch.Tensor] = []

        def attention(
            query: Any, key: Any, value: Any, mask: Any, scale: float, cap: Any, taken: Any = taken, text: int = text
        ) -> torch.Tensor:
            shared = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
            weights = (query @ shared.transpose(2, 3) * scale).masked_fill(~mask, -1e30).softmax(-1)
            taken.append(weights[0, :, GRID[0] * GRID[1] * IMAGES + text - 1].mean(0)[: GRID[0] * GRID[1] * IMAGES])
            return ops.attention(query, key, value, mask, scale, cap)

        plain = copy.copy(decoder)
        plain.plan = flat_plan(GRID, (16, 16), last_layer="full")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("luvc_export.export.llm.decoder.attention", attention)
            plain(*one.values(), [torch.zeros(1, 2, 0, 16)] * 4)
        for layer, row in enumerate(taken):
            rows[layer].append(row)
    return [torch.stack(layer) for layer in rows]


def test_the_merge_of_the_span_is_oim_on_its_grid() -> None:
    from luvc_export.core.plan import MergePass
    from luvc_export.export.compression import oim
    from luvc_export.export.llm import llm_merge

    x = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    units = oim.merge(oim.start(x.reshape(3, 4, 4, 8)), MergePass(0, 1, 2))
    place = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1).reshape(1, 16, 2)
    (merged, positions), sizes = llm_merge.merge(x, [x, place.expand(3, -1, -1)], torch.ones(3, 16), GRID, (3, 2))
    torch.testing.assert_close(merged, units.x.flatten(1, 2))
    torch.testing.assert_close(positions, units.positions.flatten(1, 2))
    torch.testing.assert_close(sizes, units.sizes.flatten(1))
    assert sizes.sum(1).tolist() == [16, 16, 16]


def test_merge_budgets_are_rectangles() -> None:
    plan = flat_plan(GRID, (16, 9, 4, 0), reducer="merge")
    assert plan.stage_grids == {1: (3, 3), 2: (2, 2)}
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(PlanError, match=r"keep\[1\]: 11 of 16 tokens are no rectangle"):
        flat_plan(GRID, (16, 11, 0), reducer="merge")
