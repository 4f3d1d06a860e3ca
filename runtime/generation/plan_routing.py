"""Which plan of a bundle answers a question: one for the pictures' size, for whole videos, for as few units as do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.pictures import picture_size
from luvc_export.runtime.media.tile_selection import best_fit, choose_tiling
from luvc_export.runtime.media.unit_choice import most_novel
from luvc_export.runtime.prompt.encoder import OpenedClip, OpenedQuestion
from luvc_export.runtime.prompt.request import Request


class PlanRouter:
    """A plan and those beside it (``NAME@HxW``, ``NAME@video``, ``NAME@tiles``, ``NAME@50``), opened when first needed.

    Args:
        own: The plan.
        another: Opens another plan of the bundle by name; None where there are no others.
    """

    def __init__(self, own: LoadedPlan, another: Callable[[str], LoadedPlan] | None) -> None:
        self._own, self._name, self._another = own, own.plan_name, another
        self._opened = {own.plan_name: own}
        self._opening = threading.Lock()

    def fitting(self, asked: OpenedQuestion) -> LoadedPlan:
        """The plan for a question with opened pictures.

        A plan that shares budgets over whole videos takes questions whose media are videos alone, one that shares them
        over tiles those whose pictures are all cut so; then, of the image sizes, the one that fits the largest picture
        best.
        """
        shown = [item.frames[0] if isinstance(item, OpenedClip) else item for item in asked.media]
        if self._another is None or not shown:
            return self._own
        name = (
            self._for_videos() if all(isinstance(item, OpenedClip) for item in asked.media) else self._for_tiles(asked)
        )
        sizes = self._bundle.sizes_of(name)
        largest = max((picture_size(picture) for picture in shown), key=lambda size: size[0] * size[1])
        return self._open([*sizes.values()][best_fit(largest, [*sizes])])

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
                chosen, request = self._open(buckets[held]), replace(request, units=most_novel(request.novelty, held))
        return chosen, request

    def _runnable(self, buckets: dict[int, str]) -> dict[int, str]:
        """Those that this back-end runs: engines are built for one plan each."""
        if self._own.backend.name != "tensorrt":
            return buckets
        engines = self._bundle.manifest.engines
        targets = {entry.target for entry in engines if entry.plan == self._name}
        built = {entry.plan for entry in engines if entry.target in targets}
        return {held: name for held, name in buckets.items() if name in built}

    def video_frames(self, most: int) -> int:
        """Frames to sample from a video: those of the plan that takes whole ones, else at most ``most`` that fit."""
        manifest, name = self._bundle.manifest, self._name if self._another is None else self._for_videos()
        plan = self._bundle.entry(name).plan
        if plan.sharing.images > 1 and plan.sharing.tiles is None:
            return plan.sharing.images * manifest.image.frames
        room = manifest.decoder.context - manifest.prompt.text_capacity
        return max(1, min(most, room // plan.units * manifest.image.frames))

    @property
    def _bundle(self) -> Bundle:
        return self._own.bundle

    def _for_videos(self) -> str:
        return self._bundle.video_plan(self._name) or self._name

    def _for_tiles(self, asked: OpenedQuestion) -> str:
        """The plan whose budgets tiles share, where every picture would be cut to them."""
        name = self._bundle.tiled_plan(self._name)
        if name is None or any(isinstance(item, OpenedClip) for item in asked.media):
            return self._name
        prompt, size, count = self._bundle.manifest.prompt, self._own.size, len(asked.pictures)
        sizes = [picture_size(picture) for picture in asked.pictures]
        cut = {choose_tiling(self._own.encoder.cuts, each, size, count, prompt.tiling).tiles for each in sizes}
        return name if cut == {self._bundle.entry(name).plan.sharing.tiles} else self._name

    def _open(self, name: str) -> LoadedPlan:
        with self._opening:
            if name not in self._opened:
                assert self._another is not None
                self._opened[name] = self._another(name)
                self._opened[name].turns = self._own.turns
            return self._opened[name]
