"""HunyuanOCR: positions of four axes, one of which counts pictures; ends of rows that are vectors; what is refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import numpy as np
import pytest
import torch
from family_harness import SABOTAGE, Case, case

from luvc_export.core.token_layout import Mosaic, arrange
from luvc_export.errors import CheckpointError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.processor import picture_settings

NAME = "hunyuan_vl"


def _run(tiny: Case) -> harness.Run:
    return harness.lay_out(tiny, tiny.plan, tiny.prompt(2), *harness.encode_images(tiny, tiny.plan, tiny.images(2))[:2])


def test_positions_are_those_of_get_rope_index() -> None:
    """Of both pictures and of the ends of their rows; the second one alone, after the first, has its number."""
    tiny = case(NAME)
    inputs, run = harness.reference(tiny, tiny.prompt(2), tiny.images(2)), _run(tiny).layout
    named = {name: inputs[name] for name in ("mm_token_type_ids", "image_grid_thw")}
    wanted, delta = tiny.model.model.get_rope_index(inputs["input_ids"], **named)
    got = np.zeros((4, inputs["input_ids"].shape[1]), np.float32)
    got[:, run.order[0]], got[:, run.visual_order[0]] = run.position_ids[:, 0], run.visual_position_ids[:, 0]
    np.testing.assert_array_equal(got, wanted[:, 0].numpy())
    assert int(delta) == 0 and run.next_position == run.next_order == got.shape[1]

    ids, raster = tiny.prompt(2), np.indices(tiny.plan.grid).reshape(2, -1).T[None].astype(np.float32)
    after = ids.index(250, ids.index(250) + 1) - 1  # from the beginning of the second picture on
    start = int(run.order[0][after - 1])
    second = arrange(ids[after:], 250, raster, tiny.plan.grid, "xdrope", start, start, {0: Mosaic((1, 1), 1)})
    np.testing.assert_array_equal(second.visual_position_ids[:, 0], run.visual_position_ids[:, 0, tiny.plan.units :])
    np.testing.assert_array_equal(second.position_ids, run.position_ids[:, :, after - 1 :])


@pytest.mark.parametrize("axis", range(4))
def test_every_axis_of_a_picture_and_of_its_ends_moves_the_logits(axis: int) -> None:
    tiny, run = case(NAME), _run(case(NAME))
    decoder = tiny.family.decoder(tiny.model, tiny.plan)
    right = harness.logits(tiny, decoder, run)
    for name in ("visual_position_ids", "position_ids"):
        moved = torch.zeros(4, 1, 1)
        moved[axis] = 1
        run.change = {name: lambda positions, moved=moved: positions + moved * (torch.arange(positions.shape[2]) > 4)}
        assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


@pytest.mark.parametrize("end", range(3))
def test_every_vector_around_a_picture_moves_the_logits(end: int) -> None:
    tiny, run = case(NAME), _run(case(NAME))
    decoder, beyond = tiny.family.decoder(tiny.model, tiny.plan), tiny.config.text_config.vocab_size
    right = harness.logits(tiny, decoder, run)
    run.change = {"input_ids": lambda ids: torch.where(ids == beyond + end, beyond + (end + 1) % 3, ids)}
    assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


def test_the_filter_is_the_one_that_its_processor_uses(tmp_path: Path) -> None:
    """Its repository names another, which transformers never uses."""
    folder = family_chat.save(case(NAME), tmp_path)
    assert '"resample": 1' in (folder / "preprocessor_config.json").read_text(encoding="utf-8")
    assert picture_settings(open_checkpoint(str(folder))).resample == "bicubic"


@pytest.mark.parametrize(
    ("half", "changed", "refusal"),
    [
        ("text", {"mrope_section": [4, 2, 2]}, r"do not fit the heads(.|\n)*\[4, 2, 2\](.|\n)*4 numbers(.|\n)*are 8"),
        ("text", {"mrope_section": [4, 2, 2, 1]}, r"do not fit the heads(.|\n)*4 numbers that together are 8, half"),
        ("text", {"alpha": None}, r"RoPE type is not known to be the same(.|\n)*'dynamic'"),
        ("vision", {"interpolate_mode": "bicubic"}, r"interpolated otherwise(.|\n)*'bicubic'(.|\n)*'bilinear'"),
    ],
)
def test_what_is_refused(half: str, changed: dict[str, Any], refusal: str) -> None:
    tiny, config = case(NAME), deepcopy(case(NAME).config)
    if half == "text":
        config.text_config.rope_parameters |= changed
    else:
        config.vision_config.interpolate_mode = changed["interpolate_mode"]
    model = type("M", (), {"config": config, "model": tiny.model.model, "lm_head": tiny.model.lm_head})()
    with pytest.raises(CheckpointError, match=refusal):
        if half == "text":
            tiny.family.decoder(model, tiny.plan)
        else:
            tiny.family.vision(model, tiny.plan, tiny.normalise())
