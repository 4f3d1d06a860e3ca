"""Which size of a bundle answers a question, and below a ceiling of visual tokens."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flat_plans import replan

from luvc_export.bundle.folder import Bundle
from luvc_export.core.tiling import Tiling, Video
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.plan_routing import PlanRouter
from luvc_export.runtime.media.pictures import open_picture
from luvc_export.runtime.prompt.question import OpenedClip, OpenedQuestion
from luvc_export.runtime.session import Session

#: Image sizes of plan ``none`` here, and their visual tokens; pixels of a unit: 28 x 28.
SIZES = {(112, 112): 16, (224, 224): 64, (224, 448): 128}


@pytest.fixture
def several(demo_bundle: Bundle) -> Bundle:
    """The demo bundle's manifest with ``none`` for three sizes; nothing can run it."""
    own, manifest = demo_bundle.entry("none"), demo_bundle.manifest
    plans = {}
    for size, units in SIZES.items():
        plan = replan(own.plan, grid=(size[0] // 28, size[1] // 28), keep=(units,) * manifest.decoder.layers)
        plans[f"none {units}"] = replace(own, plan=plan, size=size, variant_of="none 16" if plans else None)
    return replace(demo_bundle, manifest=replace(manifest, plans=plans, default_plan="none 16"))


def router(bundle: Bundle, image_tokens: int | None = None, alone: bool = False) -> PlanRouter:
    def opened(name: str) -> Any:
        entry = bundle.entry(name)
        return SimpleNamespace(
            plan_name=name, plan=entry.plan, size=entry.size, bundle=bundle, residency=None, store=None
        )

    return PlanRouter(opened(bundle.manifest.default_plan), None if alone else opened, image_tokens)


def asked(side: int, image_tokens: int | None = None) -> OpenedQuestion:
    """About one square picture."""
    shown = open_picture(np.zeros((side, side, 3), np.uint8))
    return OpenedQuestion(({"role": "user", "content": []},), (shown,), image_tokens=image_tokens)


@pytest.mark.parametrize(
    ("side", "session", "question", "units"),
    [
        (100, None, None, 16),
        (200, None, None, 64),
        (400, None, None, 64),
        (400, 64, None, 64),
        (400, 63, None, 16),
        (400, None, 63, 16),
        (400, 63, 128, 16),
        (400, 128, 16, 16),
    ],
)
def test_the_best_size_below_both_ceilings_answers(
    several: Bundle, side: int, session: int | None, question: int | None, units: int
) -> None:
    assert router(several, session).fitting(asked(side, question)).plan.units == units


def test_a_ceiling_below_every_size_names_them(several: Bundle) -> None:
    with pytest.raises(UsageError, match="no image size of so few visual tokens") as caught:
        router(several).fitting(asked(400, 15))
    assert "at least 16 (112x112), 64 (224x224), 128 (224x448)" in str(caught.value)
    assert "--image-tokens 15" in str(caught.value)
    with pytest.raises(UsageError, match="no image size of so few"):
        router(several, 15)
    with pytest.raises(UsageError, match=r"at least 16 \(112x112\)"):
        router(several, alone=True).fitting(asked(400, 15))
    assert router(several, alone=True).fitting(asked(400, 16)).plan.units == 16


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "64", 10**9])
def test_what_is_no_ceiling_is_refused(several: Bundle, wrong: Any) -> None:
    with pytest.raises(UsageError, match="this is no ceiling of visual tokens"):
        router(several, wrong)
    with pytest.raises(UsageError, match="this is no ceiling of visual tokens"):
        router(several).fitting(asked(400, wrong))


@pytest.mark.parametrize(
    ("usual", "session", "units", "frames"),
    [(None, None, 64, 63), (64, None, 64, 15), (63, None, 16, 63), (15, None, 64, 63), (16, 128, 64, 7)],
)
def test_frames_have_the_family_s_tokens_where_nobody_says_otherwise(
    several: Bundle, usual: int | None, session: int | None, units: int, frames: int
) -> None:
    """As many as its processor gives a frame, where the bundle has a size so small; as many frames as then fit."""
    video = Video("<video>", 1, (several.manifest.prompt.image_token_id,), tokens=usual)
    room = replace(several.manifest.decoder, context=several.manifest.prompt.text_capacity + 1023)
    prompt = replace(several.manifest.prompt, video=video)
    plans = router(replace(several, manifest=replace(several.manifest, prompt=prompt, decoder=room)), session)
    picture = asked(400).media[0]
    shown = OpenedQuestion(({"role": "user", "content": []},), (OpenedClip((picture,) * 2, 1.0, (0.0, 1.0)),))
    assert plans.fitting(shown).plan.units == units
    assert plans.video_frames(64) == frames
    assert plans.fitting(asked(400)).plan.units == 64


def test_tiles_of_one_size_are_refused(several: Bundle) -> None:
    cut = replace(several.manifest.prompt, cuts=(Tiling((several.manifest.prompt.image_token_id,) * 2, (1, 2)),))
    tiled = replace(several, manifest=replace(several.manifest, prompt=cut))
    with pytest.raises(UsageError, match="cuts pictures to tiles of one size"):
        router(tiled, 64)
    assert router(tiled).fitting(asked(400)).plan.units == 64


def test_a_session_s_questions_and_chats_heed_it(session: Session, bundle: Bundle, picture: Any) -> None:
    units = session.plan.units
    with pytest.raises(UsageError, match="no image size of so few"):
        session.generate(picture, "hello", image_tokens=units - 1)
    with pytest.raises(UsageError, match=r"requests\[0\]"):
        session.generate_batch([{"image": picture, "prompt": "hello", "image_tokens": units - 1}])
    first = session.generate(picture, "hello", image_tokens=units, max_new_tokens=2)
    assert first.text == session.generate(picture, "hello", max_new_tokens=2).text
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]}]
    chat += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "and"}]
    with pytest.raises(UsageError, match="a chat keeps the image size that it began with") as caught:
        session.generate(picture, messages=chat, after=first, image_tokens=units - 1)
    assert f"{units} or more" in str(caught.value)
    with pytest.raises(UsageError, match="no image size of so few"):
        Session(bundle, threads=1, image_tokens=units - 1)
