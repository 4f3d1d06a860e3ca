"""Which image size or grid of tiles a picture gets: the rules of the families' processors, on what a bundle has.

A processor chooses among every grid it knows, a bundle among those it was exported with; where these are the same, so
is the choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from luvc_export.core.tiling import Tiling, TilingRule
from luvc_export.errors import UsageError

Pair = tuple[int, int]


def best_fit(size: Pair, canvases: Sequence[Pair]) -> int:
    """Which of ``canvases`` (height, width) shows most of a picture of ``size`` (width, height), then wastes least.

    The rule of LLaVA-NeXT (``select_best_resolution`` in transformers): the picture is scaled into each canvas and its
    area there, never counted above its own, is compared.
    """

    def merit(canvas: Pair) -> Pair:
        scale = min(canvas[1] / size[0], canvas[0] / size[1])
        area = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return area, area - canvas[0] * canvas[1]

    return max(range(len(canvases)), key=lambda index: merit(canvases[index]))


def _best_resolution(size: Pair, grids: Sequence[Pair], tile: Pair) -> int:
    return best_fit(size, [(rows * tile[0], columns * tile[1]) for rows, columns in grids])


def _closest_ratio(size: Pair, grids: Sequence[Pair], tile: Pair) -> int:
    """The aspect ratio nearest to the picture's; of equal ones the larger while the picture has half its pixels.

    ``get_optimal_tiled_canvas`` of transformers, which InternVL's processor uses, in its order of grids.
    """
    area, best, nearest = size[0] * size[1], 0, math.inf
    order = sorted(range(len(grids)), key=lambda i: (grids[i][0] * grids[i][1], grids[i][1], grids[i][0]))
    for index in order:
        rows, columns = grids[index]
        distance = abs(size[0] / size[1] - columns / rows)
        large = area > 0.5 * tile[0] * tile[1] * rows * columns
        if distance < nearest or (distance == nearest and large):
            best, nearest = index, distance
    return best


def _longest_edge(size: Pair, grids: Sequence[Pair], tile: Pair) -> int:
    """The long side of the picture fills the longest row of tiles there is, the short one as many as it needs.

    ``resize`` and ``resize_for_vision_encoder`` of Idefics3's processor. Where the bundle lacks that grid, the best
    resolution.
    """
    width, height = size
    longest = max(max(grid) for grid in grids)
    side = tile[1] if width >= height else tile[0]
    long = longest * side
    short = int(long / (width / height)) if width >= height else int(long * (width / height))
    short = max(1, short + short % 2)
    ratio = long / short if width >= height else short / long
    short = math.ceil((int(long / ratio) if width >= height else int(long * ratio)) / side)
    wanted = (short, longest) if width >= height else (longest, short)
    return grids.index(wanted) if wanted in grids else _best_resolution(size, grids, tile)


def _closest_ratio_of_large(size: Pair, grids: Sequence[Pair], tile: Pair) -> int:
    """The closest ratio of several tiles where the picture has more than twice a tile's pixels, one image elsewhere.

    ``_is_image_too_large`` and ``find_closest_aspect_ratio`` of LFM2-VL's processor, with the numbers that are
    published: sides are rounded to a unit, a sixteenth of a tile.
    """
    units = [max(1, round(16 * side / edge)) for side, edge in zip(reversed(size), tile, strict=True)]
    large = units[0] * units[1] > 2 * 16 * 16
    fitting = [index for index, grid in enumerate(grids) if (grid != (1, 1)) == large] or [*range(len(grids))]
    return fitting[_closest_ratio(size, [grids[index] for index in fitting], tile)]


RULES: dict[TilingRule, Callable[[Pair, Sequence[Pair], Pair], int]] = {
    "best_resolution": _best_resolution,
    "closest_ratio": _closest_ratio,
    "longest_edge": _longest_edge,
    "closest_ratio_of_large": _closest_ratio_of_large,
}


def usable(cuts: Sequence[Tiling], pictures: int) -> list[Tiling]:
    """Those of a prompt of so many pictures."""
    return [cut for cut in cuts if cut.used in ("always", "alone" if pictures == 1 else "together")]


def choose_tiling(
    cuts: Sequence[Tiling], size: Pair, image: Pair, pictures: int, tiling: TilingRule = "best_resolution"
) -> Tiling:
    """The cut a picture of ``size`` (width, height) gets, of those for prompts of so many pictures.

    Args:
        cuts: The bundle's.
        size: Of the picture.
        image: Height and width of one image.
        pictures: How many pictures the prompt has.
        tiling: The family's rule.

    Raises:
        UsageError: The bundle has none for so many pictures.
    """
    fitting = usable(cuts, pictures)
    if not fitting:
        raise UsageError(
            "this bundle cuts no prompt of so many pictures",
            where="image",
            got=f"{pictures} pictures",
            expected=f"pictures that are shown {', '.join(sorted({cut.used for cut in cuts}))}",
            fix="ask about another number of pictures, or export the bundle again with --tiles",
        )
    return fitting[RULES[tiling](size, [cut.tiles for cut in fitting], image)]
