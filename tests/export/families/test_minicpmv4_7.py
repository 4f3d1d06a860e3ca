"""MiniCPM-V 4.7: marks on a picture's canvas, patches that join half-way, what is refused."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import family_harness as harness
import numpy as np
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, case
from flat_plans import flat_plan, replan

from luvc_export.core.plan import EncoderPrune
from luvc_export.core.token_layout import Canvas, arrange
from luvc_export.errors import CheckpointError

NAME, IMAGE = "minicpmv4_7", 250
#: Marks of the tiny config: begin and end of a picture and of a slice, and a line end.
BEGIN, END, SLICE, SLICE_END, LINE = marks = (252, 253, 254, 255, 3)
PICTURE = [BEGIN, IMAGE, END]


@pytest.mark.parametrize(
    "prompt",
    [
        [5, *PICTURE, 6],
        [5, 7, *PICTURE, LINE, LINE, 6, *PICTURE, 8],
        [5, *PICTURE, LINE, *PICTURE, SLICE, 9, 6],
        [*PICTURE, *PICTURE, LINE],
    ],
    ids=str,
)
@pytest.mark.parametrize("grid", [(2, 3), (3, 1)])
def test_positions_are_those_of_get_rope_index(prompt: list[int], grid: tuple[int, int]) -> None:
    """Line ends behind a picture, pictures beside one another, another mark behind one."""
    (rows, columns), images = grid, prompt.count(IMAGE)
    ids = torch.tensor([[one for token in prompt for one in [token] * (rows * columns if token == IMAGE else 1)]])
    sizes = torch.tensor([[4 * rows, 4 * columns]] * images)
    wanted, delta = case(NAME).model.model.get_rope_index(ids, (ids == IMAGE).int(), sizes)
    raster = np.indices(grid).reshape(2, -1).T.astype(np.float32)
    blocks = dict.fromkeys(range(images), Canvas(marks))
    layout = arrange(prompt, IMAGE, np.broadcast_to(raster, (images, *raster.shape)), grid, "mrope", blocks=blocks)
    got = np.zeros((3, ids.shape[1]), np.float32)
    got[:, layout.order[0]], got[:, layout.visual_order[0]] = (
        layout.position_ids[:, 0],
        layout.visual_position_ids[:, 0],
    )
    np.testing.assert_array_equal(got, wanted[:, 0].numpy())
    assert layout.next_order == ids.shape[1]
    assert layout.next_position == ids.shape[1] + int(delta)


def test_marks_that_are_text_move_the_logits() -> None:
    tiny = case(NAME)
    decoder, seen = tiny.family.decoder(tiny.model, tiny.plan), harness.encode_images(tiny, tiny.plan, tiny.images(2))
    run = harness.lay_out(tiny, tiny.plan, tiny.prompt(2), *seen[:2])
    right = harness.logits(tiny, decoder, run)
    ids = torch.from_numpy(run.layout.input_ids[0])
    run.change = {"position_ids": lambda places: places + torch.isin(ids, torch.tensor([BEGIN, END])).float()}
    assert harness.difference(harness.logits(tiny, decoder, run), right) > SABOTAGE


@pytest.mark.parametrize("block", range(3))
def test_units_that_leave_and_come_back_around_the_join(block: int) -> None:
    """All kept, whichever side of the join they left on, is the plain encoder."""
    tiny, layers = case(NAME), case(NAME).family.decoder_shape(case(NAME).config).layers
    plan = flat_plan(tiny.plan.grid, (0,), (), encoder_prune=EncoderPrune(block=block, keep=0.999, score="change"))
    plan, images = replan(plan, keep=(plan.vision_tokens,) * layers, last_layer="full"), tiny.images(2)
    with torch.no_grad():
        assert harness.difference(tiny.vision(plan)(images)[0], tiny.vision(tiny.plan)(images)[0]) < TOLERANCE


@pytest.mark.parametrize("changed", [{"downsample_mode": "4x"}, {"insert_layer_id": 2}])
def test_one_join_alone_and_both_at_the_end(changed: dict[str, Any]) -> None:
    values = case(NAME).config.to_dict() | changed
    tiny = harness.build(case(NAME).family, type(case(NAME).config)(**values))
    ids, images = tiny.prompt(1), tiny.images(1)
    run = harness.lay_out(tiny, tiny.plan, ids, *harness.encode_images(tiny, tiny.plan, images)[:2])
    ours = harness.logits(tiny, tiny.family.decoder(tiny.model, tiny.plan), run)
    assert harness.difference(ours, harness.reference_logits(tiny, harness.reference(tiny, ids, images))) < TOLERANCE


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"merger_times": 2}, r"joined otherwise than here(.|\n)*merger_times(.|\n)*got: 2(.|\n)*\[1\]"),
        ({"merge_kernel_size": [2, 4]}, r"joined otherwise(.|\n)*got: \[2, 4\](.|\n)*\[2, 2\]"),
        ({"newline_id": None}, r"does not name the marks around a picture(.|\n)*newline_id(.|\n)*config.json"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], refusal: str) -> None:
    config = deepcopy(case(NAME).config)
    for name, value in changed.items():
        setattr(config, name, value)
    with pytest.raises(CheckpointError, match=refusal):
        case(NAME).family.build(config)
