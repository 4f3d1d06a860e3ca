"""What a plan says of budgets that several images share: the moments of a video, or the tiles of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from luvc_export.core.files import json_records
from luvc_export.core.options import keyword, option

Quota = Literal["none", "uniform", "spread", "v-cast", "dycoke", "vidcom2"]
#: Those that follow a clip through time.
OF_CLIPS: tuple[Quota, ...] = ("v-cast", "dycoke", "vidcom2")
Kind = Literal["picture", "clip", "tiles"]


@dataclass(frozen=True)
class Sharing(json_records.JsonRecord):
    """Images whose visual tokens [images * N_0] one budget is for.

    Args:
        images: How many share one budget: 1, or the moments of a video or the tiles of a picture, whose best tokens
            stay wherever they are. Scores are those of single images while the grid is intact (``spectrum`` 2d).
        tiles: Rows and columns of tiles where those of a picture share a budget, the whole picture among them.
        quota: How the budget is divided among the images: ``none`` leaves it to the score, the others give each a quota
            (``compression.quotas``); what is left over goes by score.
    """

    images: int = keyword(1, "joint_images")
    tiles: tuple[int, int] | None = keyword(None, "joint_tiles")
    quota: Quota = option(
        "none",
        "How images divide a shared budget: none (by score alone), uniform, spread: more where tokens differ; of clips "
        "v-cast: more where they turn, dycoke: a frame of four whole, or vidcom2: more for unusual frames.",
        written=str,
        verbs=("plan", "export"),
        tags=("shapes", "by hand"),
    )

    @property
    def shared(self) -> bool:
        """Whether a budget is for more than one image."""
        return self.images > 1

    @property
    def kind(self) -> Kind:
        """What one budget is for: a picture, a clip (moments of a video), or a picture's tiles."""
        if self.tiles is not None:
            return "tiles"
        return "clip" if self.shared else "picture"

    @property
    def cut(self) -> tuple[int, int]:
        """Rows and columns of tiles that a picture is cut to: (1, 1) unless ``tiles`` says more."""
        return self.tiles or (1, 1)

    def groups(self, images: int) -> int:
        """How many budgets ``images`` images are: whole groups of them."""
        return images // self.images

    def without_quota(self) -> Sharing:
        """The same images, their budget divided by score alone."""
        return Sharing(self.images, self.tiles)

    def problems(self) -> list[str]:
        """What is wrong, one line each."""
        lines = json_records.wrong_choices(self)
        if self.images < 1:
            return [*lines, f"images: got {self.images}, expected at least 1"]
        if self.quota != "none" and not self.shared and self.tiles is None:
            lines.append(f"quota: {self.quota!r} divides a budget among images that share it; here each has its own")
        if self.tiles is None:
            return lines
        if len(self.tiles) != 2 or min(self.tiles) < 1 or self.tiles[0] * self.tiles[1] < 2:
            return [*lines, f"tiles: got {list(self.tiles)}, expected rows and columns of at least two tiles"]
        count = self.tiles[0] * self.tiles[1]
        if self.images not in (count, count + 1):
            size = f"{self.tiles[0]}x{self.tiles[1]}"
            lines.append(f"images: got {self.images}; {size} tiles are {count}, {count + 1} with the whole picture")
        if self.quota in OF_CLIPS:
            lines.append(f"quota: {self.quota!r} follows a clip through time, which tiles have not: uniform or spread")
        return lines
