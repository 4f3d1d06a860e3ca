"""An exported bundle of the default plan, merging and pruning: its graphs answer as the compressed torch modules do."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
from family_harness import TOLERANCE, Case, build
from PIL import Image
from test_family_answers import chat, pictures
from test_family_joint import MOMENTS
from test_family_video import CHAT, FPS, frames
from torch_backend import TorchBackend

from luvc_export import build_engine, contract, export_bundle
from luvc_export.bundle import Bundle, load
from luvc_export.cli import main
from luvc_export.export import families
from luvc_export.plan import Plan
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import Step

FAMILIES = families.built_in()
#: Families whose bundle takes a second image size, has a plan for whole videos too, or carries DeepStack's planes.
BUCKETS, FILMS, PLANES = "qwen2_vl", "qwen2_5_vl", "qwen3_vl"


@cache
def small(name: str) -> Case:
    """The tiny model with as few layers as show merges on both axes, a prune and a drop: tracing takes time by each.

    DeepStack's two planes need a third layer, and its encoder no third block.
    """
    family = families.find(name, "test")
    config = family.tiny_config()
    text = config.get_text_config()
    if name == PLANES:
        config.vision_config.depth = 2
    else:
        text.num_hidden_layers = 2
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:2]
    made = build(family, config)
    return replace(made, thirds=_once(made.thirds))


def _once(plan: Plan) -> Plan:
    """One pass of merging, in the last block that has one, and one prune, before the first of two layers."""
    merged = replace(plan.merges[-1], rows=1, columns=1)
    rows, columns = plan.grid
    units = (rows - 1) * (columns - 1)
    keep = (units // 2, 0) if plan.layers == 2 else (units, units // 2, 0)
    return replace(plan, merges=(merged,), keep=keep)


def _wide(tiny: Case) -> tuple[tuple[int, int], Plan]:
    """Another size, whose tokens are all kept up to the last layer."""
    size, plan = tiny.wide
    return size, replace(plan, merges=(), keep=(plan.units, 0))


def _film(tiny: Case) -> Plan:
    """The same budget, shared by the moments of a film."""
    plan = tiny.thirds
    return replace(plan, keep=tuple(MOMENTS * keep for keep in plan.keep), joint_images=MOMENTS)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bundles by family, each exported once."""

    @cache
    def export(name: str) -> Bundle:
        tiny, folder = small(name), tmp_path_factory.mktemp(name)
        plans = {"thirds": tiny.thirds}
        if name == BUCKETS:
            (height, width), plan = _wide(tiny)
            plans[f"thirds@{height}x{width}"] = plan
        if name == FILMS:
            plans["thirds@video"] = _film(tiny)
        options: dict[str, Any] = {"image_size": tiny.size, "text_capacity": 256, "video": name == FILMS}
        return export_bundle(str(family_chat.save(tiny, folder / "checkpoint")), folder / "bundle", plans, **options)

    return export


def _same(ours: Session, torch_: Session, ids: list[int], images: Any, before: tuple[Any, Any] = (None, None)) -> Any:
    """Run both; logits, caches and kept tokens must agree. Return both states."""
    steps: list[Step] = []
    for session, state in zip((ours, torch_), before, strict=True):
        steps.append(session.run(ids, session.see(images) if images is not None else None, state, all_logits=True))
    found, expected = steps
    assert harness.difference(found.logits, expected.logits) < TOLERANCE
    assert expected.logits.std() >= 1
    assert {*found.kept} == {*expected.kept}
    for layer, kept in expected.kept.items():
        assert np.array_equal(found.kept[layer], kept)
    for mine, theirs in zip(found.state.cache.values, expected.state.cache.values, strict=True):
        assert np.allclose(mine.numpy(), theirs.numpy(), atol=TOLERANCE, rtol=0)
    return found.state, expected.state


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_equals_compressed_torch(name: str, exported: Any) -> None:
    """Vision; then prefill of two images, of text alone, and a decode step, all from one decoder graph; then a chat."""
    tiny = small(name)
    bundle = exported(name)
    plan, images = tiny.thirds, tiny.images(2).expand(-1, bundle.manifest.image.frames, -1, -1, -1).contiguous()
    assert plan.merges
    assert plan.vision_tokens < plan.units
    assert [keep for _, _, keep in plan.prunes if keep]
    ours, torch_ = Session(bundle, threads=1), Session(bundle, TorchBackend(tiny, plan))
    found, expected = ours.see(images.numpy()), torch_.see(images.numpy())
    assert harness.difference(found.embeds, expected.embeds) < TOLERANCE
    assert harness.difference(found.positions, expected.positions) < TOLERANCE
    assert np.array_equal(found.merged_into, expected.merged_into)
    states = _same(ours, torch_, tiny.prompt(2), images.numpy())
    _same(ours, torch_, [5], None, states)
    _same(ours, torch_, tiny.prompt(0), None)
    answers = [one.generate(pictures(tiny, 2), messages=chat(2), max_new_tokens=8) for one in (ours, torch_)]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].visual_tokens == answers[1].visual_tokens == tuple(2 * keep for keep in plan.keep)


def test_the_size_that_fits_a_picture_is_used_and_said(exported: Any) -> None:
    """One bundle, two sizes, one file of weights; a chat stays with the size it began with."""
    tiny, bundle = small(BUCKETS), exported(BUCKETS)
    (height, width), wide = _wide(tiny)
    both = Session(bundle, threads=1)
    assert bundle.sizes_of() == {tiny.size: "thirds", (height, width): f"thirds@{height}x{width}"}
    for size, plan in ((tiny.size, tiny.thirds), ((height, width), wide)):
        picture = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
        found = both.generate(picture, "what?", max_new_tokens=4)
        assert found.selection.size == size
        alone = Session(bundle, TorchBackend(tiny, plan), plan=bundle.sizes_of()[size])
        assert found.token_ids == alone.generate(picture, "what?", max_new_tokens=4).token_ids
        assert found.visual_tokens == plan.keep
    assert [path.name for path in bundle.folder.iterdir()].count("weights") == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_graphs_pass_lint_and_build_without_a_gpu(name: str, exported: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    bundle = exported(name)
    build_engine(bundle.folder, "rtx-ada", "thirds", precision="fp16")
    entry = load(bundle.folder).engine("thirds", "rtx-ada")
    assert {item.name for item in entry.vision.inputs} == {contract.IMAGE}
    assert {*contract.past_names(small(name).thirds.layers)} <= {item.name for item in entry.decoder.inputs}


def test_run_takes_a_folder_of_frames(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve frames on disk, six of them looked at, under the plan for whole videos."""
    tiny, bundle = small(FILMS), exported(FILMS)
    for index, frame in enumerate(frames(tiny, 12)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    asked = [
        "--prompt",
        "What then?",
        "--max-new-tokens",
        "2",
        "--show-kept",
        str(tmp_path / "kept" / "k.png"),
        "--json",
    ]
    argv = ["luvc-export", "run", str(bundle.folder), "--video", str(tmp_path), "--fps", "4", *asked]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    said = json.loads(capsys.readouterr().out)
    assert said["video"] == {"frames": 2 * MOMENTS, "of": 12, "fps": 4 * 2 * MOMENTS / 12}
    assert tuple(said["timings"]["visual_tokens"]) == bundle.manifest.plans["thirds@video"].plan.keep
    assert (tmp_path / "kept" / "k.png").is_file()


def test_videos_find_their_plan_and_keep_what_torch_keeps(exported: Any) -> None:
    """One bundle: pictures take the plan with a budget each, videos the one they share."""
    tiny, bundle = small(FILMS), exported(FILMS)
    plan = bundle.manifest.plans["thirds@video"].plan
    assert bundle.manifest.plans["thirds"].vision == bundle.manifest.plans["thirds@video"].vision
    ours, shown = Session(bundle, threads=1), frames(tiny, 2 * MOMENTS)
    torch_ = Session(bundle, TorchBackend(tiny, plan), plan="thirds@video")
    graph = Session(bundle, threads=1, plan="thirds@video")
    request = torch_.prepare(messages=CHAT, video=shown, fps=FPS)
    steps = [one.run(request.token_ids, one.see(request.images), blocks=request.blocks) for one in (graph, torch_)]
    assert harness.difference(steps[0].logits, steps[1].logits) < TOLERANCE
    assert {*steps[0].kept} == {*steps[1].kept} and steps[0].kept
    for layer, kept in steps[1].kept.items():
        assert np.array_equal(steps[0].kept[layer], kept)
    for one in (ours, torch_):
        found = one.generate(messages=CHAT, video=shown, fps=FPS, max_new_tokens=8)
        assert found.visual_tokens == plan.keep
        assert len(found.token_ids) == 8
    rows = ours.generate_batch(
        [{"messages": CHAT, "video": part, "fps": FPS} for part in (shown, shown[::-1])], max_new_tokens=4
    )
    assert all(row.visual_tokens == plan.keep for row in rows)
    assert ours.generate(shown[0], "?", max_new_tokens=2).visual_tokens == tiny.thirds.keep
    assert ours.video_frames() == 2 * MOMENTS
