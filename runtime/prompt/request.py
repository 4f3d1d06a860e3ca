"""A question with its pictures and videos -> what the graphs take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.manifest import ImageInput, Manifest
from luvc_export.core import token_layout
from luvc_export.core.plan import Plan
from luvc_export.core.tiling import ClipImages, Tiling, Video
from luvc_export.errors import UsageError
from luvc_export.runtime.media.padding import all_picture, padding_units
from luvc_export.runtime.media.pictures import Opened, Picture, open_picture, picture_size
from luvc_export.runtime.media.preprocess import Placement, Prepared, fill_images, tile_picture
from luvc_export.runtime.media.tile_selection import choose_tiling, usable
from luvc_export.runtime.media.unit_choice import most_novel, novelty
from luvc_export.runtime.media.video import FramesTaken, spread
from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.runtime.prompt.question import OpenedClip, OpenedQuestion, Question, VideoClip
from luvc_export.runtime.prompt.video_text import video_text

if TYPE_CHECKING:
    from luvc_export.bundle.adapters.peft_folder import Adapter

_SINGLE = "ask with a plan for single pictures: luvc-export inspect BUNDLE says what each plan is for"


class SomeImages(NamedTuple):
    """Images of a request as ``Graphs.encode_images`` takes them; see ``Request`` for the shapes."""

    pixels: NDArray[np.uint8]
    padding: NDArray[np.bool_] | None
    units: NDArray[np.int32] | None


@dataclass(frozen=True)
class Request:
    """A question made ready.

    Args:
        token_ids: With a placeholder per image.
        images: uint8 [n, F, H, W, 3], the pictures, their tiles, or moments of videos.
        placements: Where its picture lies on each image.
        tiles: Rows and columns of tiles of each picture.
        blocks: Images that belong together, see ``layout.arrange``.
        clips: Which images are of videos.
        taken: How much of each video they are.
        padding: bool [n, H0, W0], units of each image that show padding alone; None where nobody asks.
        novelty: int16 [n, H0, W0], see ``unit_choice.novelty``; None where the bundle has no buckets.
        tolerance: Above it a unit is novel.
        units: int32 [n, K], the units that a bucket of K takes; None for a plan of all units.
        plan: Name of the plan that it was made ready for; None where that is no bundle's.
        adapter: What is beside the weights for the answer; None for the base model.
    """

    token_ids: tuple[int, ...]
    images: NDArray[np.uint8]
    placements: tuple[Placement, ...]
    tiles: tuple[tuple[int, int], ...] = ()
    blocks: Mapping[int, token_layout.Block] = field(default_factory=dict)
    clips: tuple[ClipImages, ...] = ()
    taken: tuple[FramesTaken, ...] = ()
    padding: NDArray[np.bool_] | None = None
    novelty: NDArray[np.int16] | None = None
    units: NDArray[np.int32] | None = None
    tolerance: int = 0
    plan: str | None = None
    adapter: Adapter | None = None

    @property
    def novel(self) -> NDArray[np.bool_] | None:
        """Units that neighbours do not foretell, bool [n, H0, W0]; None where the bundle has no buckets."""
        return None if self.novelty is None else self.novelty > self.tolerance

    def padded_images(self, plan: Plan) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        """Each image with the units of it that are padding, bool [H0, W0]; where nobody asked, none is."""
        none = all_picture(len(self.images), plan.grid)
        yield from zip(self.images, none if self.padding is None else self.padding, strict=True)

    def shown(self, first: int = 0, count: int | None = None) -> SomeImages:
        """``count`` images from ``first`` on, or all of them."""
        some = slice(first, None if count is None else first + count)
        padding = None if self.padding is None else self.padding[some]
        return SomeImages(self.images[some], padding, None if self.units is None else self.units[some])

    def rest(self, tokens: int, images: int) -> Request:
        """The request without its first ``tokens`` ids and ``images``; ``tiles``, ``clips``, ``taken`` stay whole."""
        blocks = {first - images: block for first, block in self.blocks.items() if first >= images}
        return replace(
            self,
            token_ids=self.token_ids[tokens:],
            images=self.images[images:],
            placements=self.placements[images:],
            blocks=blocks,
            padding=None if self.padding is None else self.padding[images:],
            novelty=None if self.novelty is None else self.novelty[images:],
            units=None if self.units is None else self.units[images:],
        )


def all_shown(requests: Sequence[Request]) -> SomeImages:
    """Images of all requests, one after another; what one of them does not say is said of none."""
    pixels, padding, units = zip(*(request.shown() for request in requests), strict=True)
    known = (None if any(one is None for one in parts) else np.concatenate(parts) for parts in (padding, units))
    return SomeImages(np.concatenate(pixels), *known)


def open_media(asked: Question, manifest: Manifest | None = None) -> OpenedQuestion:
    """``asked`` with every picture and frame opened, once: see ``open_medium``."""
    media = tuple(open_medium(item, manifest) for item in asked.media)
    beside = (asked.plain, asked.image_tokens, asked.adapter, asked.values, asked.continues, asked.tools)
    return OpenedQuestion(asked.messages, media, *beside)


def open_medium(medium: Picture | VideoClip, manifest: Manifest | None = None) -> Opened | OpenedClip:
    """A picture, or every frame of a video: upright RGB, no larger than the bundle has use for.

    Args:
        medium: A picture or a video.
        manifest: Says how large pictures can be seen; None keeps every pixel.

    Raises:
        UsageError: It is no picture, or one of the frames is none.
    """
    need = largest_canvas(manifest) if manifest else None
    if isinstance(medium, VideoClip):
        frames = tuple(open_picture(frame, need=need) for frame in medium.frames)
        return OpenedClip(frames, medium.fps, medium.times, medium.of)
    return open_picture(medium, need=need)


def largest_canvas(manifest: Manifest) -> tuple[int, int]:
    """Width and height of what a picture is fitted to at most: of every image size, with every grid of tiles."""
    sizes = [manifest.image.size, *(entry.size for entry in manifest.plans.values())]
    rows, columns = (max((cut.tiles[axis] for cut in manifest.prompt.cuts), default=1) for axis in (0, 1))
    return max(width for _, width in sizes) * columns, max(height for height, _ in sizes) * rows


def make_request(
    asked: OpenedQuestion, encoder: PromptEncoder, manifest: Manifest, size: tuple[int, int], plan: Plan
) -> Request:
    """Fit opened pictures and frames to images of ``size`` (height, width) and write the prompt around them.

    Where ``plan`` shares a budget over a whole video, every video gets the frames the plan was made for: evenly taken
    from those given, some more than once where there are fewer. Where tiles share it, every picture is cut to them.

    Raises:
        UsageError: The prompt does not fit the pictures, the bundle takes no video, or the plan only videos or only
            pictures in tiles.
    """
    spec = replace(manifest.image, size=size)
    parts = list[tuple[str | int, ...]]()
    prepared, tiles, blocks = list[Prepared](), list[tuple[int, int]](), dict[int, token_layout.Block]()
    clips, taken = list[ClipImages](), list[FramesTaken]()
    for item in asked.media:
        if isinstance(item, OpenedClip):
            video, whole = _video(manifest, plan), item
            item = _filled(item, plan.sharing.images * video.frames) if plan.sharing.images > 1 else item
            moments = fill_images(item.frames, spec)
            parts.append(video_text(video, len(moments), item))
            clips.append(ClipImages(len(prepared), len(moments), video.frames / item.fps))
            taken.append(_taken(whole, item))
            if video.step is not None:
                seconds = video.frames / item.fps if video.step_of == "second" else 1.0
                blocks[len(prepared)] = token_layout.Clip(len(moments), video.step * seconds)
            prepared += moments
            continue
        if plan.sharing.images > 1 and plan.sharing.tiles is None:
            raise UsageError(
                "this plan shares one budget over a whole video, so it takes no pictures",
                where="image",
                expected=f"videos, seen as {plan.sharing.images} images each",
                fix=_SINGLE,
            )
        cuts = encoder.cuts if plan.sharing.tiles is None else _shared_cut(encoder.cuts, plan, len(asked.pictures))
        tiling: Tiling = choose_tiling(cuts, picture_size(item), size, len(asked.pictures), manifest.prompt.tiling)
        parts.append(tiling.spelled(plan.grid[0], len(tiles)))
        if block := token_layout.block_of(tiling, len(tiles)):
            blocks[len(prepared) + (tiling.whole == "first")] = block
        tiles.append(tiling.tiles)
        prepared += tile_picture(item, spec, tiling, manifest.prompt.tiling)
    token_ids = tuple(encoder.encode(asked, parts))
    images = np.zeros((len(prepared), spec.frames, *size, 3), np.uint8)
    for index, one in enumerate(prepared):
        images[index] = one.pixels
    placements = tuple(one.placement for one in prepared)
    padding, novelties = _padding(prepared, spec, plan), _novelty(images, manifest, plan)
    return Request(
        token_ids,
        images,
        placements,
        tiles=tuple(tiles),
        blocks=blocks,
        clips=tuple(clips),
        taken=tuple(taken),
        padding=padding,
        novelty=novelties,
        units=most_novel(novelties, plan.encoder.computed_units)
        if novelties is not None and plan.encoder.takes_units
        else None,
        tolerance=manifest.image.unit_tolerance,
        adapter=asked.adapter,
    )


def _novelty(images: NDArray[np.uint8], manifest: Manifest, plan: Plan) -> NDArray[np.int16] | None:
    """Of each image, int16 [n, H0, W0]; None where no plan of this grid is a bucket."""
    beside = any(entry.plan.encoder.takes_units and entry.plan.grid == plan.grid for entry in manifest.plans.values())
    if not plan.encoder.takes_units and not beside:
        return None
    spec, differences = manifest.image, np.zeros((len(images), *plan.grid), np.int16)
    for index, pixels in enumerate(images):
        side = spec.unit or min(pixels.shape[1] // plan.grid[0], pixels.shape[2] // plan.grid[1])
        differences[index] = novelty(pixels, plan.grid, side, spec.unit_tolerance)
    return differences


def _padding(prepared: list[Prepared], spec: ImageInput, plan: Plan) -> NDArray[np.bool_]:
    """Units of each image that show padding alone, bool [n, H0, W0]."""
    (height, width), tower = spec.size, plan.encoder.tower_grid
    unit = (float(spec.unit), float(spec.unit)) if spec.unit else (height / tower[0], width / tower[1])
    unit = (unit[0] * tower[0] / plan.grid[0], unit[1] * tower[1] / plan.grid[1])
    padded = [padding_units(one.boxes, plan.grid, unit) for one in prepared]
    return np.stack(padded) if padded else all_picture(0, plan.grid)


def _shared_cut(cuts: Sequence[Tiling], plan: Plan, pictures: int) -> list[Tiling]:
    """The cut whose tiles share the budget of ``plan``."""
    fitting = [
        cut for cut in usable(cuts, pictures) if (cut.tiles, cut.images) == (plan.sharing.tiles, plan.sharing.images)
    ]
    if not fitting:
        rows, columns = plan.sharing.tiles or (1, 1)
        raise UsageError(
            "this plan shares one budget over the tiles of a picture, and pictures of this prompt are not cut so",
            where="image",
            got=f"{pictures} pictures",
            expected=f"pictures in {rows}x{columns} tiles, {plan.sharing.images} images each",
            fix=_SINGLE,
        )
    return fitting


def _video(manifest: Manifest, plan: Plan) -> Video:
    if plan.sharing.tiles is not None:
        raise UsageError(
            "this plan shares one budget over the tiles of a picture, so it takes no videos",
            where="video",
            expected=f"pictures, seen as {plan.sharing.images} images each",
            fix=_SINGLE,
        )
    video = takes_video(manifest)
    if video.pooled is not None and plan.encoder.pooled_from is None:
        raise UsageError(
            "this model pools the frames of videos, which plans for pictures do not",
            where="video",
            got="a plan for pictures",
            expected="a question about videos alone, and a bundle exported with --joint-frames N",
            fix="ask about the pictures and the videos apart",
        )
    return video


def takes_video(manifest: Manifest) -> Video:
    """How a bundle is asked about videos; before one is decoded for nothing.

    Raises:
        UsageError: It takes none.
    """
    if manifest.prompt.video is None:
        raise UsageError(
            "this bundle takes no video",
            where="video",
            got=f"a bundle of {manifest.source.model_type}",
            expected="one exported with --video, of a family that has it (docs/families.md)",
            fix="export it again with --video, or ask about single frames as pictures",
        )
    return manifest.prompt.video


def _filled(clip: OpenedClip, frames: int) -> OpenedClip:
    """``clip`` in so many frames, as long as before."""
    times = None if clip.times is None else spread(clip.times, frames)
    return OpenedClip(spread(clip.frames, frames), clip.fps * frames / len(clip.frames), times, clip.of)


def _taken(whole: OpenedClip, filled: OpenedClip) -> FramesTaken:
    """How much of a clip is looked at: frames that ``filled`` has twice count once."""
    fewer = min(whole, filled, key=lambda clip: len(clip.frames))
    return FramesTaken(len(fewer.frames), whole.of or len(whole.frames), fewer.fps, fewer.times)


def token_limit(manifest: Manifest, plan: Plan, request: Request, wanted: int | None = None) -> int:
    """How many tokens may be generated: ``wanted``, or as many as fit. Where nothing is decoded, none need to.

    Raises:
        UsageError: The prompt, or the prompt and ``wanted``, do not fit the model's context (counted without
            compression, as its positions are) or the bundle's text capacity; or there is no text, or a vector would be
            that of a picture's last token, which a plan may have dropped.
    """
    least = int(manifest.does.decodes)
    text = len(request.token_ids) - len(request.images)
    if not text:
        raise UsageError("the prompt has no text", where="prompt", fix="ask something")
    if not least and request.token_ids[-1] == manifest.prompt.image_token_id:
        raise UsageError(
            "the prompt ends with a picture, and a vector is that of its last token",
            where="prompt",
            got="a picture",
            expected="text behind it, as chat templates write",
            fix="put text behind the picture, or use the checkpoint's own chat template",
        )
    visual = len(request.images) * plan.units
    limits = (
        ("the model's context", manifest.decoder.context - visual, "ask less, or about fewer pictures"),
        ("the bundle's text capacity", manifest.prompt.text_capacity, "export with a larger --text-capacity"),
    )
    for name, limit, fix in limits:
        if text + (wanted or least) > limit:
            places = f" + {visual} visual places" if "context" in name else ""
            raise UsageError(
                f"the prompt is longer than {name}",
                where="prompt" if text >= limit else "prompt and max_new_tokens",
                got=f"{text} text tokens{places}" + f" + {wanted or 'at least 1'} new" * least,
                expected=f"at most {limit + (visual if places else 0)} in all",
                fix=fix if text >= limit else f"max_new_tokens of {limit - text} or less; or {fix}",
            )
    return wanted or min(limit for _, limit, _ in limits) - text
