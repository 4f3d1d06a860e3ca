"""The helper's task: open a plan of a bundle and run its graphs once, with the smallest inputs there are."""

from __future__ import annotations

from typing import Any

import numpy as np

from luvc_export.bundle.folder import load
from luvc_export.runtime.confined import first_run
from luvc_export.runtime.loaded_plan import LoadedPlan


def task(request: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
    """Arguments of ``LoadedPlan`` by name; the reply is empty, or an error's parts, or what ended it otherwise."""
    debug, folder = request["debug"], request.pop("folder")
    return first_run.answer(lambda: run_once(LoadedPlan(load(folder, task=None), **request), debug))


def run_once(loaded: LoadedPlan, debug: bool) -> None:
    """A prompt of a group of grey pictures and one token, then one token more."""
    if not debug:
        loaded.warm_up()
        return
    plan, manifest = loaded.plan, loaded.bundle.manifest
    count, image = plan.sharing.images, manifest.prompt.image_token_id
    pictures = np.zeros((count, manifest.image.frames, *loaded.size, 3), np.uint8)
    token = int(image == 0)
    forced = {layer: np.arange(keep, dtype=np.int64)[None] for layer, _, keep in plan.chooses}
    step = loaded.run([*[image] * count, token], loaded.encode_images(pictures), forced=forced)
    loaded.run([token], state=step.state)
