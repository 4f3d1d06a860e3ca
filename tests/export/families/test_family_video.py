"""A video is answered as by transformers: pairs of frames, their places in time, what is written around them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import family_chat
import family_harness as harness
import film_files
import numpy as np
import pytest
import torch
from family_harness import GREEDY, MADE_HERE, Case, case
from PIL import Image
from test_family_answers import session
from transformers.models.smolvlm import processing_smolvlm
from transformers.video_utils import VideoMetadata

from luvc_export.core.tiling import ClipImages
from luvc_export.core.token_layout import Clip, arrange
from luvc_export.errors import UsageError
from luvc_export.export import families
from luvc_export.export.families.base import ReferencePrompt
from luvc_export.export.llm.mrope import flat_patches
from luvc_export.runtime.media.video import Sampled

FAMILIES = MADE_HERE
#: Whose frames are images as pictures are; llava_onevision's are pooled (test_llava_onevision_video.py).
VIDEO = [
    name
    for name in FAMILIES
    if (own := families.find(name, "test")).video(own.tiny_config()) is not None
    and not own.video(own.tiny_config()).pooled  # type: ignore[union-attr]
]
CHAT = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What then?"}]},
]
FPS = 0.8


def frames(tiny: Case, count: int) -> list[Any]:
    return [image[0].numpy() for image in tiny.images(count)]


def theirs(tiny: Case, shown: list[Any]) -> dict[str, Any]:
    """Inputs of the transformers model. Its video processor needs torchvision, so frames are laid out here; what is
    written for them comes from its processor."""
    family, processor = tiny.family, family_chat.processor(tiny)
    per_image = family.video(tiny.config).frames  # type: ignore[union-attr]
    whole = [*shown, shown[-1]][: len(shown) + len(shown) % per_image]
    pixels = tiny.normalise()(torch.from_numpy(np.stack(whole)))
    metadata = VideoMetadata(len(shown), FPS, duration=len(shown) / FPS, frames_indices=[*range(len(shown))])
    text, inputs = processor.apply_chat_template(CHAT, add_generation_prompt=True), {"video_metadata": [metadata]}
    if str(tiny) == "gemma4":
        return theirs_of_gemma4(tiny, processor, text, inputs, pixels)
    if per_image == 1:
        stacked = pixels.permute(0, 3, 1, 2).contiguous()[None]
        with mock.patch.object(processing_smolvlm, "num2words", {4: "four", 7: "seven"}.get):
            expanded = processor.replace_video_token(
                inputs | {"pixel_values": stacked, "pixel_values_videos": stacked}, video_idx=0
            )
        ids = processor.tokenizer(text.replace("<video>", expanded))["input_ids"]
        return {"input_ids": torch.tensor([ids]), "pixel_values": stacked if str(tiny) == "smolvlm" else stacked[0]}
    vision = tiny.config.vision_config
    height, width = (side // vision.patch_size for side in tiny.size)
    grid = torch.tensor([[len(whole) // 2, height, width]])
    expanded = processor.replace_video_token(inputs | {"video_grid_thw": grid}, 0)
    marker = "<|video_pad|>"
    if str(tiny) in ("qwen3_vl", "qwen3_5"):  # as Qwen published it: transformers 5.10 and later leave the marks
        marker = f"<|vision_start|>{marker}<|vision_end|>"
    ids = torch.tensor([processor.tokenizer(text.replace(marker, expanded))["input_ids"]])
    reference = {
        "input_ids": ids,
        "pixel_values_videos": flat_patches(
            pixels.unflatten(0, (-1, 2)), vision.patch_size, vision.spatial_merge_size, 2
        ),
        "video_grid_thw": grid,
        "mm_token_type_ids": 2 * (ids == tiny.config.video_token_id).int(),
    }
    return reference | ({"second_per_grid_ts": [2 / FPS]} if str(tiny) == "qwen2_5_vl" else {})


def theirs_of_gemma4(tiny: Case, processor: Any, text: str, inputs: dict[str, Any], pixels: torch.Tensor) -> Any:
    """Patches of each frame, its units named by the token of videos."""
    units = tiny.plan.units
    expanded = processor.replace_video_token(inputs | {"num_soft_tokens_per_video": [units]}, 0)
    ids = torch.tensor([processor.tokenizer(text.replace("<|video|>", expanded))["input_ids"]])
    prompt = ReferencePrompt(pixels[:, None], [tiny.config.image_token_id] * len(pixels))
    of_pictures = tiny.family.reference_inputs(tiny.config, prompt)
    return {
        "input_ids": ids,
        "pixel_values_videos": of_pictures["pixel_values"],
        "video_position_ids": of_pictures["image_position_ids"],
        "num_frames_per_video": torch.tensor([len(pixels)]),
        "mm_token_type_ids": 2 * (ids == tiny.config.video_token_id).long(),
    }


@pytest.mark.parametrize(("name", "count"), [*((name, 7) for name in VIDEO), ("qwen3_vl", 4)])
def test_a_video_is_answered_as_by_transformers(name: str, count: int, tmp_path: Path) -> None:
    """Also with an odd number of frames, whose last one is shown twice where images have pairs of them."""
    tiny = case(name)
    ours, shown = session(tiny, tmp_path, tiny.plan, video=True), frames(tiny, count)
    reference, per_image = theirs(tiny, shown), tiny.family.video(tiny.config).frames  # type: ignore[union-attr]
    request = ours.prepare(messages=CHAT, video=shown, fps=FPS)
    assert request.images.shape == (-(-count // per_image), per_image, *tiny.size, 3)
    videos = tiny.config.video_token_id if per_image > 1 or name == "gemma4" else None
    prompt = [250 if token == videos else token for token in reference["input_ids"][0].tolist()]
    assert family_chat.expanded(tiny, request.token_ids) == prompt
    answer = ours.generate(messages=CHAT, video=shown, fps=FPS, max_new_tokens=GREEDY)
    assert list(answer.token_ids) == harness.reference_greedy(tiny, reference)


@pytest.mark.parametrize("name", VIDEO)
def test_a_film_is_answered_as_its_folder_of_pictures(name: str, tmp_path: Path) -> None:
    """Frames, prompt (with its time stamps, where the family writes them) and time positions: all that is answered."""
    pytest.importorskip("av")
    tiny = case(name)
    height, width = tiny.size
    film = film_files.write_film(tmp_path / "clip.mp4", film_files.noise(20, height, width), rate=4)
    (tmp_path / "clip").mkdir()
    for index, frame in enumerate(film_files.noise(20, height, width)):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{index}.png")
    ours = session(tiny, tmp_path / "bundle", tiny.plan, video=True)
    ours.video_frames = lambda: 4  # type: ignore[method-assign]
    one = ours.prepare(messages=CHAT, video=str(film))
    other = ours.prepare(messages=CHAT, video=tmp_path / "clip", fps=4)
    assert (one.token_ids, one.clips, one.blocks) == (other.token_ids, other.clips, other.blocks)
    assert np.array_equal(one.images, other.images)


@pytest.mark.parametrize(
    ("name", "seen", "even_rate"),
    [("qwen3_vl", ("0.2", "2.5"), ("0.5", "2.5")), ("smolvlm", ("00:00", "01:02"), ("00:00", "00:03"))],
)
def test_frames_real_times_are_written(
    name: str, seen: tuple[str, ...], even_rate: tuple[str, ...], tmp_path: Path
) -> None:
    """The models are told when frames were shown, not when they would have been at an even rate."""
    tiny, last = case(name), 3.0 if name == "qwen3_vl" else 62.7
    ours = session(tiny, tmp_path, tiny.plan, video=True)
    shown = Sampled(tuple(map(Image.fromarray, film_files.noise(4, *tiny.size))), 1.0, 4, (0.0, 0.4, 2.0, last))
    text = ours.encoder.tokenizer.decode(list(ours.prepare(messages=CHAT, video=shown).token_ids))
    even = ours.encoder.tokenizer.decode(list(ours.prepare(messages=CHAT, video=shown.frames, fps=1).token_ids))
    assert all(part in text for part in seen) and all(part in even for part in even_rate)
    assert text != even


def test_a_picture_fills_both_frames(tmp_path: Path) -> None:
    """The graph of a bundle with videos sees in a picture what that of a bundle without sees."""
    tiny = case("qwen2_vl")
    picture = frames(tiny, 1)[0]
    still, moving = (
        session(tiny, tmp_path / str(video), tiny.plan, video=video).generate(picture, "?", max_new_tokens=8).token_ids
        for video in (False, True)
    )
    assert still == moving


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_text_behind_many_moments_stands_after_the_last_of_them(name: str) -> None:
    """Ten moments of 2 x 3 units: text goes on at 2 + 10, by the vendor's code; 5 by rows and columns alone."""
    tiny = case(name)
    family, config = tiny.family, tiny.config
    image, rows, columns = family.image_token_id(config), 2, 3
    ids = [5, 6, *[image] * 10, 7, 8]
    units = np.indices((rows, columns)).reshape(2, -1).T.astype(np.float32)
    placed, blocks = np.broadcast_to(units, (10, 6, 2)), {0: Clip(10, 1.0)}
    layout = arrange(ids, image, placed, (rows, columns), "mrope", blocks=blocks)
    assert layout.position_ids[0, 0].tolist() == [0, 1, 12, 13] and layout.next_position == 14
    unit = family.unit_pixels(config)
    pixels = torch.zeros(10, 2, rows * unit, columns * unit, 3)
    reference = family.reference_inputs(config, ReferencePrompt(pixels, ids, clips=[ClipImages(0, 10, 1.0)]))
    spoken = {"second_per_grid_ts": [1 / config.vision_config.tokens_per_second]} if name == "qwen2_5_vl" else {}
    positions, deltas = tiny.model.model.get_rope_index(
        reference["input_ids"], reference["mm_token_type_ids"], video_grid_thw=reference["video_grid_thw"], **spoken
    )
    text = reference["input_ids"][0] != config.video_token_id
    assert positions[:, 0, text].tolist() == [[0, 1, 12, 13]] * 3
    assert int(deltas) + reference["input_ids"].shape[1] == 14


def test_videos_and_pictures_stand_where_the_messages_say(tmp_path: Path) -> None:
    tiny = case("qwen3_vl")
    ours, (first, second, third) = session(tiny, tmp_path, tiny.plan, video=True), frames(tiny, 3)
    parts = [{"type": "image", "image": third}, {"type": "video", "video": [first, second], "fps": 1.0}]
    request = ours.prepare(messages=[{"role": "user", "content": parts}])
    assert np.array_equal(request.images[0], np.stack([third, third]))
    assert np.array_equal(request.images[1], np.stack([first, second]))
    text = ours.encoder.tokenizer.decode(request.token_ids, skip_special_tokens=False).replace(" ", "")
    assert "<0.5seconds><|vision_start|>" in text


def test_media_that_the_template_moves_are_refused(tmp_path: Path) -> None:
    """LLaVA-OneVision's template writes a message's pictures before its videos; markers would change places."""
    tiny = case("internvl")
    ours, (first, second) = session(tiny, tmp_path, tiny.plan, video=True), frames(tiny, 2)
    assert ours.encoder.template is not None
    parts: list[Any] = [{"type": "video", "video": [first]}, {"type": "image", "image": second}]
    asked = [{"role": "user", "content": parts}]
    assert len(ours.prepare(messages=asked).images) == 2
    moved = "{% for k in ['image', 'video'] %}{% for c in messages[0].content %}{% if c.type == k %}{{ k }}{% endif %}"
    source = f"{moved}{{% endfor %}}{{% endfor %}}".replace("{{ k }}", "{{ '<video>' if k == 'video' else MARK }}")
    template = source.replace("MARK", "'<IMG_CONTEXT>'")
    ours.encoder.template = replace(ours.encoder.template, source=template)
    with pytest.raises(UsageError, match=r"another order than the messages(.|\n)*got: video, picture"):
        ours.prepare(messages=asked)


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {*VIDEO, "llava_onevision"}))
def test_families_without_video_refuse_at_export(name: str, tmp_path: Path) -> None:
    from luvc_export.export.checkpoint import open_checkpoint
    from luvc_export.export.options import Options, check_size

    tiny = case(name)
    tiny.config.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path), weights=False)
    with pytest.raises(UsageError, match=f"{name} takes no video here(.|\n)*leave --video out"):
        check_size(checkpoint, {}, Options(tiny.size, video=True))


def test_a_bundle_without_video_says_how_to_get_one(tmp_path: Path) -> None:
    tiny = case("qwen2_vl")
    ours, shown = session(tiny, tmp_path, tiny.plan), frames(tiny, 2)
    with pytest.raises(UsageError, match=r"this bundle takes no video(.|\n)*--video"):
        ours.generate(prompt="?", video=shown)


@pytest.mark.parametrize(
    ("video", "fps", "refusal"),
    [
        ("clip.mp4", 2, r"there is no such video(.|\n)*clip\.mp4"),
        (7, 2, r"a video is a file, a folder, or a list of frames(.|\n)*got: int"),
        ([], 2, "an empty list"),
        ([np.zeros((4, 4, 3), np.uint8)], 0, "frames per second is a number above 0"),
    ],
)
def test_what_is_no_video(video: Any, fps: float, refusal: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=refusal):
        session(case("qwen2_vl"), tmp_path, case("qwen2_vl").plan, video=True).prepare(prompt="?", video=video, fps=fps)
