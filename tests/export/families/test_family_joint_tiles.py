"""Tiles of a picture with one budget for all: its quotas in torch and in the graph, and which questions get it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
import torch
from family_harness import TOLERANCE, Case, case
from family_questions import TILED, scenery, small
from flat_plans import flat_request, replan
from test_family_answers import chat, session
from torch_backend import TorchBackend

from luvc_export import export_bundle
from luvc_export.bundle.folder import Bundle
from luvc_export.core.plan import Plan, Quota
from luvc_export.core.planning import solve
from luvc_export.errors import PlanError, UsageError
from luvc_export.export.compression import quotas
from luvc_export.pipeline import make_plans
from luvc_export.runtime.engine.plan_routing import PlanRouter
from luvc_export.runtime.session import Session

#: One row of two tiles, and the whole picture.
GRID, IMAGES = (1, 2), 3
#: Of the exported model: its prune has the quotas.
LAYERS = 1


def joint(tiny: Case, quota: Quota = "spread", schedule: str = "thirds") -> Plan:
    shapes = tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
    request = flat_request(schedule, merge_keep=0.5, joint_images=IMAGES, joint_tiles=GRID, quota=quota)
    return solve(request, tiny.plan.grid, *shapes)


def kept_of(ours: Session, shown: Any, plan: Plan) -> Any:
    """How many tokens of each image the first prune that chooses keeps."""
    request = ours.prepare(shown, messages=chat(1))
    step = ours.default.run(request.token_ids, ours.default.encode_images(request.images), blocks=request.blocks)
    kept = step.kept[plan.chooses[0][0]]
    assert kept.shape == (1, plan.chooses[0][2])
    return np.bincount(kept[0] // plan.vision_tokens, minlength=IMAGES)


@pytest.mark.parametrize("name", TILED)
def test_tiles_share_a_budget_by_quota(name: str, tmp_path: Path) -> None:
    """Uncompressed it is the same model; compressed every image has its own."""
    tiny = case(name)
    plans = tiny.plan, joint(tiny, "none", "none")
    ways = [session(tiny, tmp_path / str(at), plan, tiles=(GRID,)) for at, plan in enumerate(plans)]
    answers = [way.generate([scenery(tiny, *GRID)], messages=chat(1), max_new_tokens=8) for way in ways]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].visual_tokens == answers[1].visual_tokens
    plan = joint(tiny, "uniform")
    counts = kept_of(session(tiny, tmp_path / "uniform", plan, tiles=(GRID,)), scenery(tiny, *GRID), plan)
    assert counts.sum() == plan.chooses[0][2] and counts.min() >= plan.chooses[0][2] // IMAGES


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    tiny = small("internvl", LAYERS)
    checkpoint = str(family_chat.save(tiny, tmp_path_factory.mktemp("tiles") / "checkpoint"))
    plan = replan(
        tiny.thirds, merges=(), keep=(7,), last_layer="full", joint_images=IMAGES, joint_tiles=GRID, quota="spread"
    )
    options: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 256}
    return export_bundle(checkpoint, Path(checkpoint).parent / "bundle", {"some@tiles": plan}, **options)


@pytest.mark.slow(beside="export/families/test_family_joint_tiles.py::test_tiles_share_a_budget_by_quota")
def test_the_graph_keeps_what_torch_keeps(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, plan = small("internvl", LAYERS), bundle.entry("some@tiles").plan
    assert bundle.manifest.prompt.tiling == tiny.family.tiling == "closest_ratio"
    graph = Session(bundle, "cpu", plan="some@tiles", threads=1)
    torch_ = Session(bundle, TorchBackend(tiny, plan), plan="some@tiles")

    def alike(shown: Any) -> tuple[bool, bool]:
        request = graph.prepare([shown], messages=chat(1))
        assert request.tiles == (GRID,)  # asked for by name, it cuts pictures of every shape so
        one, other = (
            way.default.run(request.token_ids, way.default.encode_images(request.images), blocks=request.blocks)
            for way in (graph, torch_)
        )
        same = {*one.kept[0][0].tolist()} == {*other.kept[0][0].tolist()}
        return same, harness.difference(one.logits, other.logits) < TOLERANCE

    shown = scenery(tiny, *GRID), 255 - scenery(tiny, *GRID), scenery(tiny, 1, 1)
    assert [alike(each) for each in shown] == [(True, True)] * 3

    def first(quota: Quota, normed: torch.Tensor, own: quotas.Members) -> torch.Tensor:
        return torch.eye(IMAGES)[:1, None].expand(*normed.shape[:2], -1)

    monkeypatch.setattr(quotas, "weights", first)  # all for the first tile
    assert [alike(each) for each in shown] == [(False, False)] * 3


@pytest.mark.slow(beside="export/families/test_family_joint_tiles.py::test_tiles_share_a_budget_by_quota")
def test_questions_whose_pictures_are_cut_so_find_it(bundle: Bundle) -> None:
    """A plan for single images beside it, both in torch; the bundle has single images too."""
    tiny = small("internvl", LAYERS)
    own = replan(tiny.thirds, merges=(), keep=(5,), last_layer="full")
    plans = {"some": replace(bundle.entry(), plan=own), "some@tiles": replace(bundle.entry(), variant_of="some")}
    prompt = replace(bundle.manifest.prompt, cuts=tiny.family.cuts(tiny.config, ((1, 1), GRID)))
    manifest = replace(bundle.manifest, plans=plans, default_plan="some", prompt=prompt)
    both = replace(bundle, manifest=manifest)
    asked = Session(both, TorchBackend(tiny, own), plan="some")
    tiles = Session(both, TorchBackend(tiny, bundle.entry().plan), plan="some@tiles")
    asked.plans = PlanRouter(asked.default, {"some@tiles": tiles.default}.__getitem__)
    wide, square = scenery(tiny, *GRID), scenery(tiny, 1, 1)
    for shown, name, rows in (
        ([wide], "some@tiles", 7),
        ([wide, wide], "some@tiles", 14),
        ([square], "some", 5),
        ([wide, square], "some", 20),
        ([], "some", 0),
    ):
        answer = asked.generate(shown, messages=chat(len(shown)), max_new_tokens=1)
        assert (answer.past.loaded.plan_name, answer.visual_tokens[0]) == (name, rows)


@pytest.mark.slow(beside="export/families/test_family_joint_tiles.py::test_tiles_share_a_budget_by_quota")
def test_what_it_does_not_take(bundle: Bundle, tmp_path: Path) -> None:
    tiny = case("llava_onevision")
    ours = session(tiny, tmp_path, joint(tiny), tiles=(GRID,))
    with pytest.raises(
        UsageError, match=r"pictures of this prompt are not cut so(.|\n)*ask with a plan for single pictures"
    ):
        ours.prepare([scenery(tiny, *GRID)] * 2, messages=chat(2))
    with pytest.raises(UsageError, match="shares one budget over the tiles of a picture, so it takes no videos"):
        ours.prepare(video=[scenery(tiny, 1, 1)] * 2, prompt="?")
    checkpoint = family_chat.save(small("internvl"), tmp_path / "checkpoint")
    plans = make_plans(str(checkpoint), kv_mib=0.001, joint_tiles=GRID, quota="spread", text=0)
    assert [(plan.sharing.quota, plan.sharing.images, plan.sharing.tiles) for plan in plans.values()] == [
        ("none", 1, None),
        ("spread", IMAGES, GRID),
    ]
    assert [*plans] == ["safe", "safe@tiles"]
    with pytest.raises(PlanError, match="quota: 'v-cast' follows a clip through time, which tiles have not"):
        make_plans(str(checkpoint), joint_tiles=GRID, quota="v-cast")
    with pytest.raises(UsageError, match=r"cuts no picture into these tiles, so they cannot share(.|\n)*got: 1x1"):
        make_plans(str(checkpoint), joint_tiles=(1, 1))
    with pytest.raises(UsageError, match=r"fixed budgets are for one image(.|\n)*--joint-tiles"):
        make_plans(str(checkpoint), {"list": [4, 0]}, joint_tiles=GRID)
    plan, checkpoint = replan(bundle.entry("some@tiles").plan, joint_images=2), bundle.folder.parent / "checkpoint"
    with pytest.raises(UsageError, match="a picture is not cut into the tiles that share this plan's budget"):
        export_bundle(str(checkpoint), tmp_path / "none", {"some": plan}, image_size=small("internvl", LAYERS).size)
    assert not (tmp_path / "none").exists()
