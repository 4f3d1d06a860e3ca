"""What a plan may say of budgets that several images share, and of the row that stands for what was dropped."""

from __future__ import annotations

from collections.abc import Sequence

#: Fields of ``Plan`` that its JSON leaves out while they are empty.
FIELDS = frozenset(("aggregate", "quota", "joint_tiles"))


def problems(
    aggregate: object,
    quota: str,
    merges: bool,
    images: int,
    tiles: Sequence[int] | None,
    chooses: Sequence[tuple[int, int, int]] | None,
) -> list[str]:
    """What is wrong with ``aggregate``, ``quota`` and ``joint_tiles`` of a plan, one line each.

    Args:
        aggregate: The field.
        quota: The field.
        merges: LLM layers merge instead of pruning.
        images: That share a budget.
        tiles: Rows and columns of them, if they are a picture's.
        chooses: ``Plan.chooses``; None where it cannot be known.
    """
    found = _tiles_problems(images, tiles, quota)
    if not isinstance(aggregate, bool):
        found.append(f"aggregate: got {aggregate!r}, expected true or false")
    elif aggregate and merges:
        found.append("aggregate: merging in the LLM drops nothing that a row could stand for")
    elif aggregate and chooses is not None:
        if not chooses:
            found.append("aggregate: no prune leaves a row for it: every budget is whole or 0")
        found += [
            f"keep[{layer}]: a budget of 1 would be the aggregate alone: at least 2, or 0"
            for layer, _, chosen in chooses
            if not chosen
        ]
    if quota == "none":
        return found
    if images == 1:
        found.append(f"quota: {quota!r} divides a budget among images that share it; here each has its own")
    elif chooses is not None:
        if not chooses:
            found.append(f"quota: {quota!r} divides what a prune keeps; none keeps some and drops some")
        found += [
            f"keep[{layer}]: {chosen} chosen tokens for {images} images: a quota gives each at least 1"
            for layer, _, chosen in chooses
            if 0 < chosen < images
        ]
    return found


def _tiles_problems(images: int, tiles: Sequence[int] | None, quota: str) -> list[str]:
    if tiles is None:
        return []
    if len(tiles) != 2 or min(tiles) < 1 or tiles[0] * tiles[1] < 2:
        return [f"joint_tiles: got {list(tiles)}, expected rows and columns of at least two tiles"]
    count, found = tiles[0] * tiles[1], list[str]()
    if images not in (count, count + 1):
        grid = f"{tiles[0]}x{tiles[1]}"
        found.append(f"joint_images: got {images}; {grid} tiles are {count}, {count + 1} with the whole picture")
    if quota == "v-cast":
        found.append("quota: 'v-cast' follows a clip through time, which tiles have not: uniform or spread")
    return found
