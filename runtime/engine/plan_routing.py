"""Which plan of a bundle answers a question: one for the pictures' size, for whole videos, for as few units as do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.variants import shared_plan
from luvc_export.core.image_tokens import check_ceiling
from luvc_export.errors import UsageError
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.pictures import picture_size
from luvc_export.runtime.media.tile_selection import best_fit, choose_tiling
from luvc_export.runtime.media.unit_choice import most_novel
from luvc_export.runtime.prompt.question import OpenedClip, OpenedQuestion
from luvc_export.runtime.prompt.request import Request

if TYPE_CHECKING:
    from luvc_export.bundle.adapters.peft_folder import Adapter


class PlanRouter:
    """A plan of a bundle and its variants (other sizes, videos, tiles, buckets), opened when first needed.

    Args:
        default: The plan that answers where no variant does it better.
        another: Opens another plan of the bundle by name; None where there are no others.
        image_tokens: Ceiling of visual tokens of a picture, for every question; one may ask for fewer.

    Raises:
        UsageError: ``image_tokens`` is no ceiling, or the bundle has no size below it.
    """

    def __init__(
        self, default: LoadedPlan, another: Callable[[str], LoadedPlan] | None, image_tokens: int | None = None
    ) -> None:
        self.default, self._another, self._image_tokens = default, another, image_tokens
        check_ceiling(image_tokens)
        if image_tokens is not None:
            self._sizes(default.plan_name, image_tokens)
        self._opened = {default.plan_name: default}
        self._opening = threading.Lock()

    def __getitem__(self, name: str) -> LoadedPlan:
        """The plan ``name``, opened.

        Raises:
            UsageError: The bundle has no such plan.
        """
        with self._opening:
            if name not in self._opened:
                assert self._another is not None
                self._opened[name] = self._another(name)
                self._opened[name].residency = self.default.residency
            return self._opened[name]

    @property
    def opened(self) -> list[LoadedPlan]:
        """All that were opened, the default first. One that is unloaded for another stays what it is."""
        return list(self._opened.values())

    def forget(self, adapter: Adapter) -> None:
        """Give back what opened plans keep of an adapter."""
        for loaded in self.opened:
            loaded.graphs.forget(adapter)

    def fitting(self, asked: OpenedQuestion) -> LoadedPlan:
        """The plan for a question with opened pictures.

        A plan that shares budgets over whole videos takes questions whose media are videos alone, one that shares them
        over tiles those whose pictures it would all cut so; then, of the image sizes below the ceiling of visual
        tokens, the one that fits the largest picture best.

        Raises:
            UsageError: No image size is below the ceiling, or pictures are cut to tiles, which have one size.
        """
        check_ceiling(asked.image_tokens)
        most = min((one for one in (asked.image_tokens, self._image_tokens) if one is not None), default=None)
        shown = [item.frames[0] if isinstance(item, OpenedClip) else item for item in asked.media]
        if self._another is None or not shown:
            if shown and most is not None:
                self._sizes(self.default.plan_name, most)
            return self.default
        largest = max((picture_size(picture) for picture in shown), key=lambda size: size[0] * size[1])
        if all(isinstance(item, OpenedClip) for item in asked.media):
            return self[self._sized(self._for_videos(), largest, most or self._usual())]
        tiled = shared_plan(self._bundle.manifest, self.default.plan_name, "tiles")
        if tiled is not None and not any(isinstance(item, OpenedClip) for item in asked.media):
            name = self._sized(tiled, largest, most)
            if self._cuts(name, asked):
                return self[name]
        return self[self._sized(self.default.plan_name, largest, most)]

    def bucket(self, chosen: LoadedPlan, request: Request) -> tuple[LoadedPlan, Request]:
        """The smallest bucket of ``chosen`` that holds every novel unit of the request's images, ``chosen`` if none.

        A ``chosen`` that is a bucket itself was asked for by name: it takes what it holds.
        """
        novel = request.novel
        if self._another is not None and not chosen.plan.encoder.takes_units and novel is not None and len(novel):
            most = int(novel.sum((1, 2)).max())
            buckets = self._runnable(self._bundle.buckets_of(chosen.plan_name))
            held = next((held for held in buckets if held >= most), None)
            if held is not None and request.novelty is not None:
                chosen = self[buckets[held]]
                request = replace(request, units=most_novel(request.novelty, held), plan=chosen.plan_name)
        return chosen, request

    def _runnable(self, buckets: dict[int, str]) -> dict[int, str]:
        """Those that this back-end runs: engines are built for one plan each."""
        if self.default.backend.name != "tensorrt":
            return buckets
        engines = self._bundle.manifest.engines
        targets = {entry.target for entry in engines if entry.plan == self.default.plan_name}
        built = {entry.plan for entry in engines if entry.target in targets}
        return {held: name for held, name in buckets.items() if name in built}

    def video_frames(self, most: int) -> int:
        """Frames to sample from a video: those of the plan that takes whole ones, else at most ``most`` that fit."""
        manifest = self._bundle.manifest
        plan = self.default.plan if self._another is None else self._bundle.entry(self._for_videos()).plan
        most_tokens = self._image_tokens or self._usual()
        if self._another is not None and most_tokens is not None:
            sizes = self._sizes(self._for_videos(), most_tokens)
            plan = max((self._bundle.entry(name).plan for name in sizes.values()), key=lambda one: one.units)
        if plan.sharing.kind == "clip":
            return plan.sharing.images * manifest.image.frames
        room = manifest.decoder.context - manifest.prompt.text_capacity
        return max(1, min(most, room // plan.units * manifest.image.frames))

    @property
    def _bundle(self) -> Bundle:
        return self.default.bundle

    def _for_videos(self) -> str:
        return shared_plan(self._bundle.manifest, self.default.plan_name, "clip") or self.default.plan_name

    def _usual(self) -> int | None:
        """Ceiling of a frame's visual tokens where nobody named one: the family's, if the bundle has a size below."""
        video = self._bundle.manifest.prompt.video
        if self._another is None or video is None or video.tokens is None:
            return None
        units = [self._bundle.entry(name).plan.units for name in self._bundle.sizes_of(self._for_videos()).values()]
        return video.tokens if min(units) <= video.tokens else None

    def _sized(self, name: str, largest: tuple[int, int], most: int | None) -> str:
        """Of ``name`` and its variants for other image sizes, the one that fits ``largest`` best below ``most``."""
        sizes = self._sizes(name, most)
        return [*sizes.values()][best_fit(largest, [*sizes])]

    def _sizes(self, name: str, most: int | None) -> dict[tuple[int, int], str]:
        """Image sizes of ``name`` of at most ``most`` visual tokens, and the plan for each."""
        sizes = self._bundle.sizes_of(name) if self._another else {self.default.size: name}
        if most is None:
            return sizes
        if any(cut.tiles != (1, 1) for cut in self._bundle.manifest.prompt.cuts):
            raise UsageError(
                "this bundle cuts pictures to tiles of one size",
                where="image_tokens",
                got=str(most),
                expected="no ceiling of visual tokens",
                fix="leave it out; --tiles at export and the plan say how many tokens the LLM sees",
            )
        tokens = {size: self._bundle.entry(other).plan.units for size, other in sizes.items()}
        below = {size: other for size, other in sizes.items() if tokens[size] <= most}
        if not below:
            listed = sorted((count, size) for size, count in tokens.items())
            raise UsageError(
                "this bundle has no image size of so few visual tokens",
                where="image_tokens",
                got=str(most),
                expected="at least " + ", ".join(f"{count} ({size[0]}x{size[1]})" for count, size in listed),
                fix=f"export it again with --image-tokens {most}, or ask for more",
            )
        return below

    def _cuts(self, name: str, asked: OpenedQuestion) -> bool:
        """Whether every picture would be cut, for images of plan ``name``, to the tiles that share its budget."""
        entry, prompt, cuts = self._bundle.entry(name), self._bundle.manifest.prompt, self.default.encoder.cuts
        sizes, count = [picture_size(picture) for picture in asked.pictures], len(asked.pictures)
        tiles = {choose_tiling(cuts, each, entry.size, count, prompt.tiling).tiles for each in sizes}
        return tiles == {entry.plan.sharing.tiles}
