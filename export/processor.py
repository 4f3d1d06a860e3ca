"""What a checkpoint says of pictures: every place its settings may be, read as transformers reads them.

transformers 4 writes ``preprocessor_config.json``, transformers 5 nests the same under ``image_processor`` of
``processor_config.json``. Both may be there; where they differ, nobody knows which one the model was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luvc_export.errors import CheckpointError, UsageError
from luvc_export.export.checkpoint import Checkpoint, checkpoint_json
from luvc_export.export.families.base import Normalise

#: File, and the key under which it may nest the settings (None: the file is the settings).
_PLACES = (("processor_config.json", "image_processor"), ("preprocessor_config.json", None))
_VIDEO_PLACES = (("processor_config.json", "video_processor"), ("video_preprocessor_config.json", None))
#: Pixel arithmetic.
_ARITHMETIC = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
#: Settings that change what a graph computes or which pixels it is given.
_WEIGHTY = (
    *_ARITHMETIC,
    "resample",
    "size",
    "crop_size",
    "do_center_crop",
    "max_image_size",
    "patch_size",
    "merge_size",
    "temporal_patch_size",
)
#: Names a processor gives the number of tokens of a picture.
_TOKENS = ("image_seq_length", "image_seq_len", "num_image_tokens")
#: Pillow's filters by the number the settings give.
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")

Places = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class PictureSettings:
    """Pixel arithmetic ``(image * rescale - mean) / std`` and the name of a Pillow filter."""

    rescale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: str


def picture_settings(checkpoint: Checkpoint) -> PictureSettings:
    """The settings transformers would use. What the files leave out is what its image processor takes for it.

    A checkpoint opened without weights answers nothing; where it has no settings either, the family's own stand in.

    Raises:
        CheckpointError: No settings, unreadable ones, or some that contradict each other or the model's config.
    """
    places = _given(checkpoint, _PLACES)
    if not places:
        if checkpoint.tensors:
            raise _missing(checkpoint)
        own = checkpoint.family.pixels
        return PictureSettings(own.rescale, own.mean, own.std, own.resample)
    _check_alike(checkpoint, places, _WEIGHTY)
    processor = _transformers(checkpoint)
    _check_model(checkpoint, processor)
    pixels = checkpoint.family.pixels
    number = processor.resample
    return PictureSettings(
        float(processor.rescale_factor) if processor.do_rescale else 1.0,
        _channels(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        _channels(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
        pixels.resample if number is None else _FILTERS[int(number)],
    )


def normalise(checkpoint: Checkpoint) -> Normalise:
    """Pixel arithmetic of the vision graph. Raises what ``picture_settings`` raises."""
    settings = picture_settings(checkpoint)
    return Normalise(settings.rescale, list(settings.mean), list(settings.std))


def check_video(checkpoint: Checkpoint) -> None:
    """Frames and pictures go through one graph, so a video processor's arithmetic must be the pictures'.

    Raises:
        CheckpointError: It is another.
    """
    _check_alike(checkpoint, _given(checkpoint, _PLACES) | _given(checkpoint, _VIDEO_PLACES), _ARITHMETIC)


def check_tiles(checkpoint: Checkpoint, grids: Sequence[tuple[int, int]], image: tuple[int, int]) -> None:
    """Refuse grids of tiles that the family's processor never makes of a picture: the model has not seen them.

    InternVL's makes as many tiles as ``max_patches`` says, LFM2-VL's as ``max_tiles``, all of ``tile_size``; Idefics3's
    and SmolVLM's as many along a side as ``max_image_size`` goes into ``size``. LLaVA-OneVision's are checked by its
    ``cuts``. Settings that a family's tiles rest on must be those that it names (``tile_settings``).

    Args:
        checkpoint: Whose processor is asked.
        grids: Rows and columns of tiles.
        image: Height and width of a tile.

    Raises:
        UsageError: Names the grid and the limit, or the setting.
    """
    asked = [grid for grid in grids if grid != (1, 1)]
    if not asked or not _given(checkpoint, _PLACES):
        return
    processor = _transformers(checkpoint)
    most = {"closest_ratio": "max_patches", "closest_ratio_of_large": "max_tiles"}.get(checkpoint.family.tiling)
    limit = getattr(processor, most, None) if most else None
    edge, tile = (
        _side(processor.size, "longest_edge"),
        _side(getattr(processor, "max_image_size", None), "longest_edge"),
    )
    along = -(-edge // tile) if edge and tile and edge > tile else None
    side = getattr(processor, "tile_size", None)
    if side is not None and image != (side, side):
        raise UsageError(
            "this model's tiles have another size",
            where="--image-size",
            got=f"{image[0]}x{image[1]}",
            expected=f"{side}x{side} (tile_size of its processor)",
            fix=f"--image-size {side}x{side} beside --tiles",
        )
    for name, needed in checkpoint.family.tile_settings(checkpoint.config, image).items():
        if (value := getattr(processor, name, needed)) != needed:
            raise UsageError(
                "this model's processor cuts pictures by another rule",
                where=f"{checkpoint.folder}: {name}",
                got=value,
                expected=f"{needed}, which the tiles of {checkpoint.family.model_type} are made by",
                fix="leave out --tiles: every picture is one image then",
            )
    for rows, columns in asked:
        if limit is not None and rows * columns > limit:
            expected = f"at most {limit} tiles ({most} of its processor)"
        elif along is not None and max(rows, columns) > along:
            expected = f"at most {along} tiles along a side ({edge} pixels in tiles of {tile}, as its processor says)"
        else:
            continue
        raise UsageError(
            "this model does not cut pictures so",
            where="--tiles",
            got=f"{rows}x{columns}",
            expected=expected,
            fix="ask for fewer tiles",
        )


def _given(checkpoint: Checkpoint, places: Places) -> dict[str, Mapping[str, Any]]:
    """Settings by the place they are from."""
    by_place: dict[str, Mapping[str, Any]] = {}
    for name, key in places:
        path = checkpoint.folder / name
        if not path.is_file():
            continue
        data = checkpoint_json(path)
        inner = data.get(key) if key else data
        if inner is None:
            continue
        if not isinstance(inner, dict):
            raise CheckpointError(
                "the processor's settings are not an object", where=f"{path}: {key}", got=type(inner).__name__
            )
        by_place[f"{name}: {key}" if key else name] = inner
    return by_place


def _check_alike(checkpoint: Checkpoint, places: Mapping[str, Mapping[str, Any]], names: tuple[str, ...]) -> None:
    for name in names:
        stated = {place: data[name] for place, data in places.items() if data.get(name) is not None}
        if len({_plain(value) for value in stated.values()}) > 1:
            raise CheckpointError(
                f"the checkpoint's settings of pictures contradict each other: {name}",
                where=str(checkpoint.folder),
                got="; ".join(f"{place} says {value}" for place, value in stated.items()),
                expected="one value",
                fix="keep what the model was trained with and delete the other",
            )


def _plain(value: Any) -> str:
    """Two spellings of one setting as one text: a size as one number, as height and width, as floats."""
    if isinstance(value, Mapping):
        value = {key: item for key, item in value.items() if item is not None}
        sides = {value.get("height"), value.get("width")}
        if set(value) == {"height", "width"} and len(sides) == 1:
            return _plain(sides.pop())
        return str(sorted((key, _plain(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return str([_plain(item) for item in value])
    return f"{float(value):.7g}" if isinstance(value, int | float) else str(value)


def _transformers(checkpoint: Checkpoint) -> Any:
    """The checkpoint's image processor, as transformers makes it."""
    try:
        processor = checkpoint.family.image_processor(checkpoint.folder)
        for name in ("image_mean", "image_std"):
            _channels(getattr(processor, name))
        if processor.resample is not None and int(processor.resample) not in range(len(_FILTERS)):
            raise ValueError(f"no resampling filter {processor.resample}")
        if processor.do_rescale and not np.isfinite(float(processor.rescale_factor)):
            raise ValueError(f"rescale_factor {processor.rescale_factor}")
        if processor.do_normalize and not np.all(np.array(processor.image_std, float) > 0):
            raise ValueError(f"image_std {processor.image_std}")
    except Exception as error:  # transformers raises almost anything on settings it does not know
        raise CheckpointError(
            "the settings of pictures cannot be read",
            where=str(checkpoint.folder),
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="what AutoImageProcessor.from_pretrained reads",
        ) from error
    return processor


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = [values] * 3 if isinstance(values, int | float) else values
    return float(red), float(green), float(blue)


def _check_model(checkpoint: Checkpoint, processor: Any) -> None:
    """Whether the processor makes what the model of ``config.json`` takes."""
    family, config = checkpoint.family, checkpoint.config
    fixed, unit = family.image_size(config), family.unit_pixels(config)
    sizes: list[tuple[str, Any, Any]] = []
    if fixed:
        sizes.append(("size of an image", _made_size(processor), fixed))
        units = (fixed[0] // unit) * (fixed[1] // unit)
        outer = checkpoint.folder / "processor_config.json"
        settings = checkpoint_json(outer) if outer.is_file() else {}
        sizes += [(name, settings.get(name), units) for name in _TOKENS]
    else:
        vision = getattr(config, "vlm_config", config).vision_config  # a model for retrieval has one inside
        for name, theirs in (("patch_size", None), ("merge_size", "spatial_merge_size"), ("temporal_patch_size", None)):
            sizes.append((name, _one_side(getattr(processor, name, None)), getattr(vision, theirs or name, None)))
    for name, got, expected in sizes:
        if None not in (got, expected) and got != expected:
            raise CheckpointError(
                f"the processor does not fit the model: {name}",
                where=str(checkpoint.folder),
                got=got,
                expected=f"{expected}, which config.json says",
                fix="take both files from one checkpoint",
            )


def _one_side(value: Any) -> Any:
    """A patch that is given as height and width, which are equal, as one number."""
    if value is None or isinstance(value, int):
        return value
    height, width = _side(value, "height"), _side(value, "width")
    return height if height == width else value


def _made_size(processor: Any) -> tuple[int, int] | None:
    """Height and width of the images a processor makes, None where pictures decide."""
    tile = _side(getattr(processor, "max_image_size", None), "longest_edge")
    if tile:
        return tile, tile
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    height, width = _side(size, "height"), _side(size, "width")
    return (height, width) if height and width else None


def _side(size: Any, name: str) -> int | None:
    """A side of a size, which transformers keeps as a dict or as an object."""
    value = size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)
    return None if value is None else int(value)


def _missing(checkpoint: Checkpoint) -> CheckpointError:
    return CheckpointError(
        "the checkpoint does not say how its pictures are prepared",
        where=str(checkpoint.folder),
        got="no preprocessor_config.json, and no processor_config.json with an image_processor",
        expected="one of them: without it, colours would be scaled by guess",
        fix="AutoProcessor.from_pretrained(MODEL).save_pretrained(MODEL) writes it",
    )
