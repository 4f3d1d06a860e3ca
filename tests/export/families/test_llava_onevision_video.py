"""LLaVA-OneVision pools frames and not pictures: clips have plans and graphs of their own, equal to transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from family_harness import GREEDY, TOLERANCE, Case, case
from test_family_answers import session
from test_family_video import CHAT, FPS, frames

from luvc_export.calibration.runners.canvas import uncompressed
from luvc_export.core import graph_io
from luvc_export.core.plan import EncoderPlan, LlmPlan, Plan, Sharing
from luvc_export.core.plan.cost import encoder_flops
from luvc_export.core.plan.request import EncoderPruneRequest
from luvc_export.errors import PlanError, UsageError
from luvc_export.export import trace
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint
from luvc_export.export.families.base import ReferencePrompt
from luvc_export.export.families.llava_onevision import PooledVision
from luvc_export.export.options import Options, check_size
from luvc_export.pipeline import make_plan, make_plans

COUNT = 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(family_chat.save(tiny(), tmp_path_factory.mktemp("model"))))


def tiny() -> Case:
    return case("llava_onevision")


def plain(checkpoint: Checkpoint) -> Plan:
    """The plan that changes nothing, of clips."""
    return uncompressed(checkpoint, tiny().size, Sharing(COUNT))


def theirs(shown: list[Any]) -> dict[str, Any]:
    """Inputs of the transformers model; what is written comes from its processor."""
    pixels = tiny().normalise()(torch.from_numpy(np.stack(shown))).permute(0, 3, 1, 2).contiguous()[None]
    processor = family_chat.processor(tiny())
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True)
    written = text.replace("<video>", processor.replace_video_token({"pixel_values_videos": pixels}, 0))
    return {"input_ids": torch.tensor([processor.tokenizer(written)["input_ids"]]), "pixel_values_videos": pixels}


def test_a_video_is_answered_as_by_transformers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Ids, features, and 32 tokens; 5x5 units of a frame become 3x3."""
    plan, shown = plain(checkpoint), frames(tiny(), COUNT)
    assert (plan.grid, plan.encoder.pooled_from, plan.keep[0]) == ((3, 3), (5, 5), 9 * COUNT)
    ours, reference = session(tiny(), tmp_path, plan, video=True), theirs(shown)
    request = ours.prepare(messages=CHAT, video=shown, fps=FPS)
    pixels = tiny().normalise()(torch.from_numpy(request.images))
    prompt = ReferencePrompt(pixels, [*request.token_ids], clips=request.clips)
    inputs = tiny().family.reference_inputs(tiny().config, prompt)
    assert inputs["input_ids"].tolist() == reference["input_ids"].tolist()
    torch.testing.assert_close(inputs["pixel_values_videos"], reference["pixel_values_videos"])
    with torch.no_grad():
        seen = tiny().model.get_video_features(reference["pixel_values_videos"], return_dict=True).pooler_output[0, :-1]
    own = torch.from_numpy(np.asarray(ours.default.encode_images(request.images).embeds)).flatten(0, 1)
    assert harness.difference(own, seen) < TOLERANCE
    answered = ours.generate(messages=CHAT, video=shown, fps=FPS, max_new_tokens=GREEDY)
    assert list(answered.token_ids) == harness.reference_greedy(tiny(), reference)


def test_pooling_is_their_interpolation() -> None:
    """A mean of two and two is another pooling, and told."""
    plan = Plan(EncoderPlan((3, 3), pooled_from=(5, 5)), LlmPlan((9, 0)))
    pooled = PooledVision(torch.nn.Identity(), plan)
    x = torch.randn(2, 25, 64, generator=torch.Generator().manual_seed(0))
    wanted = tiny().model.model.apply_pooling(x)
    torch.testing.assert_close(pooled.pool @ x, wanted)
    mean = torch.nn.functional.avg_pool2d(x.unflatten(1, (5, 5)).permute(0, 3, 1, 2), 2, ceil_mode=True)
    assert harness.difference(mean.flatten(2).transpose(1, 2), wanted) > 0.1


@torch.no_grad()
def test_the_graph_is_the_module(checkpoint: Checkpoint) -> None:
    plan, images = plain(checkpoint), tiny().images(COUNT)
    vision = tiny().vision(plan)
    graph = ir.to_proto(trace.trace_vision(vision, plan, tiny().size, 1))
    ran = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    got = ran.run([graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS], {graph_io.IMAGE: images.numpy()})
    for part, other in zip(got, vision(images), strict=False):
        assert harness.difference(torch.from_numpy(part), other) < TOLERANCE


def test_budgets_are_of_whole_clips(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Named plans prune what pooling leaves; blocks cost what they cost before it."""
    plans = make_plans(checkpoint, ["film", "none"], joint_frames=COUNT)
    assert [*plans] == ["film", "none", "film@video", "none@video"]
    plan, shape = plans["film@video"], tiny().family.encoder_shape(tiny().config)
    assert plan.span_tokens == 9 * COUNT and 0 < plan.keep[-2] < 9 * COUNT
    assert encoder_flops(plan.encoder, shape) == encoder_flops(plans["none"].encoder, shape)
    assert Plan.from_json(plan.to_json()) == plan
    ours = session(tiny(), tmp_path, plan, video=True)
    answered = ours.generate(messages=CHAT, video=frames(tiny(), 2 * COUNT), fps=FPS, max_new_tokens=4)
    assert answered.visual_tokens == plan.keep


def test_what_is_not_possible_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for choices in ({"merge_keep": 0.5}, {"encoder_prune": EncoderPruneRequest(0.5)}):
        with pytest.raises(PlanError, match="its output is pooled"):
            make_plan(checkpoint, "film", joint_images=COUNT, **choices)
    with pytest.raises(PlanError, match="left out of units that the model pools"):
        Plan(EncoderPlan((3, 3), pooled_from=(5, 5), bucket=4), LlmPlan((4,)))
    with pytest.raises(UsageError, match=r"videos have plans of their own(.|\n)*--joint-frames N"):
        check_size(checkpoint, {"plan": tiny().plan}, Options(tiny().size, video=True))
    pooled = Plan(EncoderPlan((3, 3), pooled_from=(5, 5)), plain(checkpoint).llm, Sharing(COUNT))
    unpooled = uncompressed(checkpoint, tiny().size)
    whole = Plan(unpooled.encoder, LlmPlan((25 * COUNT,) * 3, last_layer="full"), Sharing(COUNT))
    check_size(checkpoint, {"plan": pooled}, Options(tiny().size, video=True))
    with pytest.raises(PlanError, match="not for what this model makes of frames"):
        check_size(checkpoint, {"plan": whole}, Options(tiny().size, video=True))
    ours = session(tiny(), tmp_path, tiny().plan, video=True)
    with pytest.raises(UsageError, match=r"plans for pictures do not(.|\n)*apart"):
        ours.generate(prompt="?", video=frames(tiny(), 2))
