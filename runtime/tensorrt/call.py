"""What one call of the decoder engine is fed, and which profile takes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from luvc_export.bundle.manifest import EngineEntry, EngineFile, Profile
from luvc_export.core import graph_io
from luvc_export.errors import UsageError
from luvc_export.runtime.cuda.tensor import to_engine
from luvc_export.runtime.model import Array
from luvc_export.runtime.tensorrt.cache_memory import TrtCache
from luvc_export.runtime.tensorrt.factors import SetFactor


def decode_profile(file: EngineFile) -> int:
    """Index of the profile made for one token at a time: the one with the smallest largest text."""
    return min(range(len(file.profiles)), key=lambda index: (_text(file.profiles[index]), index))


def prefill_profile(file: EngineFile) -> int:
    """Index of the profile made for prompts: the one with the largest text."""
    return max(range(len(file.profiles)), key=lambda index: (_text(file.profiles[index]), -index))


def samples_tokens(entry: EngineEntry) -> bool:
    """Whether the decoder engine gives its next token as it takes tokens."""
    kinds = {binding.name: binding.dtype for binding in (*entry.decoder.inputs, *entry.decoder.outputs)}
    samples = {graph_io.NEXT_TOKEN, graph_io.NEXT_LOGIT} <= set(kinds)
    return samples and kinds[graph_io.NEXT_TOKEN] == kinds[graph_io.INPUT_IDS] == "int64"


def check_room(entry: EngineEntry, cache: TrtCache | None, groups: int, text: int) -> None:
    """Check that a call with ``groups`` of images and ``text`` tokens behind ``cache`` fits the caches.

    Raises:
        UsageError: Too much text, too many images, or images behind text where caches are written in place.
    """
    held_text, held_groups = (cache.text, cache.groups) if cache else (0, 0)
    for what, held, new, most in (
        ("text tokens", held_text, text, entry.text_capacity),
        ("images", held_groups, groups, entry.groups),
    ):
        if held + new > most:
            raise UsageError(
                f"the engines do not hold so many {what}",
                where=entry.decoder.file,
                got=f"{held} held, {new} more",
                expected=f"at most {most}",
                fix=f"luvc-export build --target {entry.target} with more of them, or ask less",
            )
    if entry.slots and groups and cache:
        raise UsageError(
            "these engines take images with the first call of a conversation only",
            where=entry.decoder.file,
            got=f"{groups} images behind {held_text} text tokens",
            fix="ask about all images at once"
            + ("" if entry.kv == "append" else f", or luvc-export build --target {entry.target} --kv concat"),
        )


def decoder_arrays(entry: EngineEntry, feeds: Mapping[str, Array], cache: TrtCache | None) -> dict[str, Array]:
    """Host arrays of one call in the engine's dtypes, by input name; caches and visual embeddings left out.

    With slots, ``text_mask`` covers every text slot and two inputs say what the caches hold (docs/surgery.md).
    """
    arrays = {name: array for name, array in feeds.items() if name != graph_io.VISUAL_EMBEDS}
    if entry.slots:
        batch = len(feeds[graph_io.TEXT_MASK])
        mask = np.zeros((batch, entry.text_capacity), np.bool_)
        mask[:, : feeds[graph_io.TEXT_MASK].shape[1]] = feeds[graph_io.TEXT_MASK]
        held = {graph_io.PAST_TEXT: cache.text if cache else 0, graph_io.PAST_GROUPS: cache.groups if cache else 0}
        arrays |= {graph_io.TEXT_MASK: mask, **{name: np.full(batch, value, np.int64) for name, value in held.items()}}
    return typed(entry, arrays)


def typed(entry: EngineEntry, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays in the dtypes of the decoder engine's inputs, those it has; factors that lie on the GPU as they are."""
    kinds = {binding.name: binding.dtype for binding in entry.decoder.inputs}
    return {
        name: array if isinstance(array, SetFactor) else to_engine(array, kinds[name])
        for name, array in arrays.items()
        if name in kinds
    }


def check_shapes(
    file: EngineFile, index: int, shapes: Mapping[str, tuple[int, ...]], beside: Collection[str] = ()
) -> None:
    """Check the shapes of all inputs but those ``beside`` against profile ``index``.

    Raises:
        UsageError: One is outside; names it, its range and what to build.
    """
    profile = file.profiles[index]
    for binding in file.inputs:
        if binding.name in beside:
            continue
        shape = shapes[binding.name]
        low, high = (limits.get(binding.name, binding.shape) for limits in (profile.minimum, profile.maximum))
        fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if not fits:
            raise UsageError(
                "an input does not fit the engine",
                where=f"{file.file}: {binding.name}, profile {profile.name!r}",
                got=list(shape),
                expected=f"{list(low)} to {list(high)}",
                fix="ask less, or luvc-export build the engines with larger capacities",
            )


def _text(profile: Profile) -> int:
    return profile.maximum[graph_io.INPUT_IDS][1]
