"""What a stranger's ``luvc.json`` says of media, states, vectors and slots for adapters, against what arrays take."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from itertools import pairwise

from luvc_export.core.shapes import PLACE, ROWS, DecoderShape
from luvc_export.core.tasks import Embedding, Task
from luvc_export.core.tiling import Video
from luvc_export.errors import BundleError

_SLOT = re.compile(r"(0|[1-9][0-9]{0,3})\.(.+)", re.ASCII | re.DOTALL)
#: Inputs or outputs of a product, its rank, and numbers of the factors of all: 64 a product of a 70B model are 1.3e9.
_MOST_SIZE, _MOST_RANK, _MOST_NUMBERS = 2**24, 2**16, 2**33
#: Pixels of all images of one picture or video: 400 MB of uint8. A 7B model's largest video has 116 million.
PIXELS = 2**27
_FIX = "do not use this bundle; export it again from the checkpoint"


def check_lora(
    rank: int, slots: Mapping[str, tuple[int, int]], modules: Collection[str], layers: int, where: str
) -> None:
    """Check the names and sizes of slots of a model of ``layers``: they become inputs of graphs, and arrays.

    Raises:
        BundleError: A slot is of no layer or module of the model, or a size or a rank is none.
    """

    def wrong(got: object, expected: str) -> BundleError:
        return BundleError("a slot for adapters is none", where=where, got=str(got)[:80], expected=expected, fix=_FIX)

    if not 1 <= rank <= _MOST_RANK:
        raise wrong(f"rank {rank}", f"a rank of 1 to {_MOST_RANK:,}")
    for name, sizes in slots.items():
        parts = _SLOT.fullmatch(name)
        if parts is None or int(parts[1]) >= layers or parts[2] not in modules:
            raise wrong(repr(name), f"LAYER.MODULE, a layer of 0 to {layers - 1} and a module of lora.modules")
        if not all(1 <= size <= _MOST_SIZE for size in sizes):
            raise wrong(f"{name!r}: {list(sizes)}", f"inputs and outputs of 1 to {_MOST_SIZE:,}")
    numbers = rank * sum(map(sum, slots.values()))
    if numbers > _MOST_NUMBERS:
        raise wrong(f"{numbers:,} numbers of factors", f"at most {_MOST_NUMBERS:,} in all slots")


def check_video(video: Video, frames: int, image_token_id: int, where: str) -> None:
    """Check how frames become images, of ``frames`` each: those of a video are counted by a field of their own.

    Raises:
        BundleError: Its images have more frames than an image has, or what has steps of time has text between images.
    """
    if video.frames > frames:
        raise BundleError(
            "an image of a video has more frames than an image",
            where=f"{where}.frames",
            got=video.frames,
            expected=f"at most {frames}, as image.frames says",
            fix=_FIX,
        )
    if video.written.count(image_token_id) != 1:
        raise BundleError(
            "what stands for an image of a video has its token once",
            where=f"{where}.written",
            got=str(video.written)[:80],
            expected=f"one {image_token_id} and texts",
            fix=_FIX,
        )
    if video.step is not None and (len(video.written) != 1 or video.between):
        raise BundleError(
            "images of a video with steps of time stand side by side",
            where=where,
            got=f"written {str(video.written)[:80]}, between {video.between[:40]!r}",
            expected="the image's token alone, or no step",
            fix=_FIX,
        )


def check_pixels(frames: int, size: tuple[int, int], where: str) -> None:
    """Refuse ``frames`` of ``size`` (height, width) that would fill memory before a graph sees one image.

    Raises:
        BundleError: More than ``PIXELS`` at once.
    """
    height, width = size
    if frames * height * width > PIXELS:
        raise BundleError(
            "a plan sees more pixels at once than any model",
            where=where,
            got=f"{frames} x {height}x{width}",
            expected=f"at most {PIXELS:,} pixels",
        )


def check_states(decoder: DecoderShape, where: str) -> None:
    """Check what a stranger's manifest says of states beside the caches: their names and sizes reach runtimes.

    Raises:
        BundleError: A state is of no layer that keeps something, has a name twice or one that is none, or sizes that no
            tensor has; or a layer keeps nothing.
    """

    def wrong(got: object, expected: str) -> BundleError:
        return BundleError("a state is none that a decoder could have", where=where, got=got, expected=expected)

    seen: set[tuple[int, str]] = set()
    for state in decoder.states:
        if not 0 <= state.layer < decoder.cached:
            raise wrong(f"layer {state.layer}", f"0 to {decoder.cached - 1}")
        if not state.name.isidentifier() or state.in_cache or (state.layer, state.name) in seen:
            raise wrong(repr(state.name)[:80], "a name of its own in its layer")
        sizes = [size for size in state.shape if size != ROWS]
        if not 0 < len(state.shape) < 8 or len(sizes) < len(state.shape) - 1 or not all(0 < n < 2**24 for n in sizes):
            raise wrong(list(state.shape), f"sizes above 0, at most one of them {ROWS} for cached rows")
        if math.prod(sizes) > 2**32:
            raise wrong(list(state.shape), f"at most {2**32:,} numbers a row")
        is_place = (state.name, state.shape, state.dtype) == (PLACE, (ROWS,), "int64")
        if state.window is not None and not (is_place and 0 < state.window < 2**31):
            raise wrong(f"window {state.window} of {state.name!r}"[:80], f"above 0, of {PLACE!r}, int64 [{ROWS}]")
        seen.add((state.layer, state.name))
    if bare := set(decoder.keyless) - {layer for layer, _ in seen}:
        raise wrong(f"nothing for layer {min(bare)}, which has no keys", "a state, or key/value heads")


def check_task(task: Task, embedding: Embedding | None, decoder: DecoderShape, where: str) -> None:
    """Check what is said of vectors: there where the task makes some, and of what there is.

    Raises:
        BundleError: It is not.
    """
    how, hidden, expected, got = embedding, decoder.hidden, "", ""
    if how is None or task.decodes:
        if (how is None) != task.decodes:
            got = f"task {task.name}, {'none' if how is None else 'one'}"
            expected = "how vectors are made where nothing is decoded, and nowhere else"
    elif (how.pooling, how.pair is not None) not in {(task.pooling, task.pairs), ("mean", task.name != "embed")}:
        got = f"pooling {how.pooling}, {'a' if how.pair else 'no'} prompt of pairs"
        expected = f"pooling {task.pooling}, {'one' if task.pairs else 'none'}, as the task {task.name} has it"
    elif how.default_prompt not in {None, *how.prompts}:
        got, expected = f"default_prompt {how.default_prompt!r}"[:80], "one of prompts, or null"
    elif how.width is not None and not (1 if task.pairs else 2) <= how.width <= (1 if task.pairs else 8 * hidden):
        got, expected = f"width {how.width}", "1 for pairs, else numbers up to 8 times the hidden size"
    elif how.merged != (1, 1) and (task.pooling != "every" or not all(1 <= one <= 64 for one in how.merged)):
        got, expected = (
            f"merged {how.merged}"[:80],
            "1 to 64 rows and columns, of many vectors",
        )
    elif (how.labels is not None) != task.pairs or not all(0 <= one < decoder.vocab for one in how.labels or ()):
        got, expected = f"labels {how.labels}"[:80], f"two tokens of {decoder.vocab:,} for pairs, else null"
    elif any(one >= other for one, other in pairwise((0, *how.sizes, (how.width or hidden) + 1))):
        got, expected = f"sizes {list(how.sizes)}"[:80], f"ascending numbers up to {how.width or hidden}"
    if expected:
        raise BundleError("a bundle does not say how it embeds", where=where, got=got, expected=expected, fix=_FIX)
