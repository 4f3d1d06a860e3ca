"""A video with one budget for all of it: the best tokens of the whole film stay, in torch and in the graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import family_harness as harness
import numpy as np
import pytest
from family_harness import TOLERANCE, Case, case
from flat_plans import flat_request
from test_family_answers import session
from test_family_video import CHAT, FPS, VIDEO, frames
from torch_backend import TorchBackend

from luvc_export.core.plan import Plan
from luvc_export.core.planning import solve
from luvc_export.errors import UsageError
from luvc_export.runtime.session import Session

#: Images of a video: two frames each.
MOMENTS = 3


def joint(tiny: Case, schedule: str = "thirds") -> Plan:
    shapes = tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
    return solve(flat_request(schedule, merge_keep=0.5, joint_images=MOMENTS), tiny.plan.grid, *shapes)


def clip(tiny: Case) -> list[Any]:
    """Frames of so many moments, of which one budget keeps others than a budget for each."""
    return frames(tiny, 1 + MOMENTS * tiny.family.video(tiny.config).frames)[1:]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", VIDEO)
def test_the_budget_is_of_the_whole_video(name: str, tmp_path: Path) -> None:
    """Scores are those of a budget per image; what stays are the highest of all moments together."""
    tiny = case(name)
    plan = joint(tiny)
    first, before, keep = plan.prunes[0]
    assert (before, keep) == (MOMENTS * tiny.thirds.vision_tokens, plan.keep[first])
    own = session(tiny, tmp_path, plan, video=True)
    request = own.prepare(messages=CHAT, video=clip(tiny), fps=FPS)
    scores: list[Any] = []
    for used in (plan, tiny.thirds):
        decoder = tiny.family.decoder(tiny.model, used)
        torch_ = TorchBackend(tiny, used)
        torch_.decoder = decoder
        real, seen = decoder.score, []
        decoder.score = lambda inputs, real=real, seen=seen: seen.append(real(inputs)) or seen[-1]  # type: ignore[func-returns-value]
        asked = _with_plan(own, used, torch_)
        step = asked.default.run(request.token_ids, asked.default.encode_images(request.images), blocks=request.blocks)
        scores.append((seen[0].numpy(), step.kept[used.prunes[0][0]]))
    (together, kept), (alone, each) = scores
    assert together.shape == (1, 1, before)
    assert np.abs(together.ravel() - alone.ravel()).max() < TOLERANCE
    assert kept.shape == (1, keep)
    assert {*kept[0].tolist()} == {*np.argsort(-together.ravel())[:keep].tolist()}
    places = {(moment, int(token)) for moment, row in enumerate(each) for token in row}
    assert places != {divmod(int(token), tiny.thirds.vision_tokens) for token in kept[0]}


def _with_plan(own: Session, plan: Plan, backend: TorchBackend) -> Session:
    entry = replace(own.bundle.manifest.plans["plan"], plan=plan)
    manifest = replace(own.bundle.manifest, plans={"plan": entry})
    return Session(replace(own.bundle, manifest=manifest), backend)


@pytest.mark.parametrize("name", VIDEO)
def test_uncompressed_it_is_the_same_model(name: str, tmp_path: Path) -> None:
    tiny = case(name)
    shown = clip(tiny)
    answers = [
        session(tiny, tmp_path / str(index), plan, video=True).generate(
            messages=CHAT, video=shown, fps=FPS, max_new_tokens=8
        )
        for index, plan in enumerate((tiny.plan, joint(tiny, "none")))
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].visual_tokens == answers[1].visual_tokens


def test_a_video_is_brought_to_the_frames_of_the_plan(tmp_path: Path) -> None:
    """Evenly taken or repeated, as long as before; two videos are two groups; pictures and text have their rules."""
    tiny = case("qwen3_vl")
    ours, shown = session(tiny, tmp_path, joint(tiny), video=True), frames(tiny, 12)
    assert ours.video_frames() == 2 * MOMENTS
    for length, places in ((12, (0, 2, 4, 6, 8, 10)), (3, (0, 0, 1, 1, 2, 2))):
        request = ours.prepare(messages=CHAT, video=shown[:length], fps=FPS)
        assert np.array_equal(request.images.reshape(-1, *tiny.size, 3), np.stack([shown[place] for place in places]))
    parts: list[Any] = [{"type": "video", "video": part} for part in (shown[:6], shown[6:])]
    parts.append({"type": "text", "text": "?"})
    answer = ours.generate(messages=[{"role": "user", "content": parts}], max_new_tokens=2)
    assert answer.visual_tokens == tuple(2 * keep for keep in ours.plan.keep)
    assert len(ours.generate(prompt="Hi", max_new_tokens=2).token_ids) == 2
    with pytest.raises(
        UsageError, match=r"shares one budget over a whole video(.|\n)*ask with a plan for single pictures"
    ):
        ours.generate(shown[0], "?")


def test_the_filter_has_a_block_for_every_image() -> None:
    """One line through the whole film would be another filter, and give other scores."""
    tiny = case("qwen2_vl")
    first = joint(tiny).prunes[0][0]
    film, line = (
        getattr(tiny.family.decoder(tiny.model, joint(tiny).changed(spectrum=spectrum)), f"basis_{first}")
        for spectrum in ("2d", "1d")
    )
    blocks = film.reshape(MOMENTS, tiny.thirds.vision_tokens, MOMENTS, -1)
    off = [blocks[i, :, j] for i in range(MOMENTS) for j in range(MOMENTS) if i != j]
    assert not any(block.any() for block in off)
    assert harness.difference(film @ film.T, line @ line.T) > 0.01


def test_a_video_first_and_a_picture_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of whole videos takes no picture: the other one answers, from the whole chat, as without ``after``."""
    tiny = case("qwen2_vl")
    own = session(tiny, tmp_path, tiny.plan, video=True)
    entry = own.bundle.manifest.plans["plan"]
    plans = {"plan": entry, "plan@video": replace(entry, plan=joint(tiny, "none"), variant_of="plan")}
    bundle = replace(own.bundle, manifest=replace(own.bundle.manifest, plans=plans))
    opened = lambda name, bundle, plan=None, *_, **__: TorchBackend(tiny, bundle.entry(plan).plan)  # noqa: E731
    monkeypatch.setattr("luvc_export.runtime.backends.open_backend", opened)
    ours, shown = Session(bundle, "cpu", "plan"), frames(tiny, 2 * MOMENTS + 1)
    first = ours.generate(messages=CHAT, video=shown[:-1], fps=FPS, max_new_tokens=4)
    assert first.past is not None and first.past.loaded.plan_name == "plan@video"
    asked: list[Any] = [{"type": "image", "image": shown[-1]}, {"type": "text", "text": "And here?"}]
    spoken = [
        {"role": "assistant", "content": [{"type": "text", "text": first.text}]},
        {"role": "user", "content": asked},
    ]
    turns: list[Any] = [
        {**CHAT[0], "content": [{"type": "video", "video": shown[:-1], "fps": FPS}, CHAT[0]["content"][1]]}
    ]
    later = {"messages": [*turns, *spoken], "max_new_tokens": 4}
    second, whole = ours.generate(**later, after=first), ours.generate(**later)
    assert second.token_ids == whole.token_ids and second.reused == 0
    again = [*turns, spoken[0], {"role": "user", "content": [{"type": "text", "text": "And then?"}]}]
    third = ours.generate(messages=again, after=first, max_new_tokens=4)
    assert third.past is not None and third.past.loaded.plan_name == "plan@video"
