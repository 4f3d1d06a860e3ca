"""Frames of a clip merge inside the encoders of families that take videos: torch, the graph, and a whole answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import family_harness as harness
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from family_harness import TOLERANCE, case
from flat_plans import flat_request, replan
from test_family_answers import session
from test_family_joint import MOMENTS, joint
from test_family_video import CHAT, FPS, VIDEO, frames

from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import encoder_flops
from luvc_export.core.plan.merging import TimeMerge
from luvc_export.core.plan.request import TimeRequest
from luvc_export.core.planning import solve
from luvc_export.core.target import ORT_CPU
from luvc_export.engines import targets
from luvc_export.errors import PlanError, UsageError
from luvc_export.export import trace
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.trace import simplify


def merging(name: str) -> Plan:
    """Three moments, one of which is left after the first block."""
    tiny = case(name)
    return replan(joint(tiny, "none"), time=TimeMerge(0, MOMENTS, 1))


def shown(name: str, clips: int) -> torch.Tensor:
    tiny = case(name)
    frames = tiny.family.video(tiny.config).frames  # type: ignore[union-attr]
    images = tiny.images(clips * MOMENTS * frames)[:, 0]
    return images.reshape(clips * MOMENTS, frames, *tiny.size, 3)


@pytest.mark.parametrize("name", [name for name in VIDEO if name != "internvl"])
@torch.no_grad()
def test_a_clip_that_stands_still_is_seen_as_before(name: str) -> None:
    """All frames alike: their mean becomes what each would have become. Others change, so something does merge."""
    tiny, plan = case(name), merging(name)
    images = shown(name, 2)
    still = images.reshape(2, MOMENTS, *images.shape[1:])[:, :1].expand(-1, MOMENTS, *[-1] * 4).flatten(0, 1)
    whole, time = tiny.vision(joint(tiny, "none")), tiny.vision(plan)
    for part, wanted in zip(time(still), whole(still), strict=True):
        assert harness.difference(part.float(), wanted.float()) < TOLERANCE
    assert harness.difference(time(images)[0], whole(images)[0]) > 100 * TOLERANCE
    one = [time(images[first : first + MOMENTS])[0] for first in (0, MOMENTS)]
    torch.testing.assert_close(torch.cat(one), time(images)[0], atol=TOLERANCE, rtol=0)


@pytest.mark.slow(beside="export/families/test_family_time.py::test_a_clip_that_stands_still_is_seen_as_before")
@torch.no_grad()
def test_the_graph_merges_as_torch_does() -> None:
    """Of Qwen3-VL, whose planes are states of blocks before and after; lawful as a target's graph."""
    tiny, plan = case("qwen3_vl"), merging("qwen3_vl")
    vision, frames = tiny.vision(plan), tiny.family.video(tiny.config).frames  # type: ignore[union-attr]
    graph = trace.trace_vision(vision, plan, tiny.size, frames, marked=True)
    simplify(graph)
    bodies.attach(graph, plan)
    graph.metadata_props["luvc.plan"] = json.dumps(plan.to_json())
    trace.check(graph)
    model, _ = run_passes(ir.to_proto(graph), ORT_CPU)
    ran = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert ran.get_inputs()[0].shape[0] == "images"
    for clips in (1, 3):
        images = shown("qwen3_vl", clips)
        wanted = vision(images)
        got = ran.run([graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS], {graph_io.IMAGE: images.numpy()})
        for part, other in zip(got, wanted, strict=False):
            assert harness.difference(torch.from_numpy(part), other) < TOLERANCE
    for target in ("rtx-ada", "jetson-orin-nano-jp62"):
        run_passes(ir.to_proto(graph), targets.find(target).spec)  # which ends with lint


def test_frames_with_class_tokens_do_not_merge() -> None:
    with pytest.raises(PlanError, match="frames do not merge in this encoder"):
        case("internvl").vision(merging("internvl"))


def test_a_clip_is_answered_and_parts_of_one_are_refused(tmp_path: Path) -> None:
    tiny, plan = case("qwen2_5_vl"), merging("qwen2_5_vl")
    own = session(tiny, tmp_path, plan, video=True)
    answer = own.generate(messages=CHAT, video=frames(tiny, 2 * MOMENTS), fps=FPS, max_new_tokens=4)
    assert len(answer.token_ids) == 4 and answer.visual_tokens == plan.keep
    images = np.zeros((MOMENTS + 1, 2, *tiny.size, 3), np.uint8)
    with pytest.raises(UsageError, match=f"a multiple of {MOMENTS}"):
        own.default.encode_images(images)


def test_blocks_after_it_cost_their_share() -> None:
    tiny = case("qwen2_5_vl")
    shape = tiny.family.encoder_shape(tiny.config)
    whole, time = joint(tiny, "none").encoder, merging("qwen2_5_vl").encoder
    for number, (before, after) in enumerate(zip(encoder_flops(whole, shape), encoder_flops(time, shape), strict=True)):
        assert after == (before if number == 0 else before // MOMENTS)


def test_a_request_is_a_share_of_a_clip_s_frames() -> None:
    tiny = case("qwen2_5_vl")
    shapes = tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
    asked: dict[str, Any] = {"schedule": "film", "time": TimeRequest(0.5, 1)}
    plan = solve(flat_request(**asked, joint_images=8), tiny.plan.grid, *shapes)
    assert plan.encoder.time == TimeMerge(1, 8, 4)
    assert solve(flat_request(**asked), tiny.plan.grid, *shapes).encoder.time is None
    for wrong, refusal in (
        (TimeRequest(1.0), "a share of frames goes on"),
        (TimeRequest(0.95), "is all of them"),
        (TimeRequest(0.5, 99), "after block 99"),
    ):
        with pytest.raises(PlanError, match=refusal):
            solve(flat_request("film", time=wrong, joint_images=8), tiny.plan.grid, *shapes)
    with pytest.raises(PlanError, match="a share of frames goes on"):
        solve(flat_request("film", time=TimeRequest(7.0)), tiny.plan.grid, *shapes)
