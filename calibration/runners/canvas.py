"""What an export of a checkpoint would say of pictures and prompts: how runners without a bundle prepare questions."""

from __future__ import annotations

import dataclasses

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Fit, ImageInput, Manifest, PlanEntry
from luvc_export.calibration.cases import Case, asked
from luvc_export.core.plan import EncoderPlan, LlmPlan, Plan, Sharing
from luvc_export.core.plan.encoder import POSITION_COPIES
from luvc_export.core.planning import unshared
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.exported_manifest import make_manifest
from luvc_export.export.options import Options, check_size
from luvc_export.runtime.media.video import DEFAULT_FRAMES
from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.runtime.prompt.request import Request, make_request, open_media, token_limit

Grids = tuple[tuple[int, int], ...]


def canvas(
    checkpoint: Checkpoint,
    image_size: tuple[int, int],
    fit: Fit = "pad",
    tiles: Grids = ((1, 1),),
    video: bool = False,
) -> Manifest:
    """The manifest of an export with these options; no graph is made. It serves plans of one position and of several.

    Raises:
        UsageError: The family has no such size, tiles or video.
        CheckpointError: The checkpoint does not say how its pictures are prepared.
    """
    context = checkpoint.family.decoder_shape(checkpoint.config).context
    options = Options(image_size, fit, text_capacity=context, tiles=tiles, video=video)
    none = uncompressed(checkpoint, image_size)
    shown, own = {"none": none}, checkpoint.family.video(checkpoint.config) if video else None
    if own is not None and own.pooled is not None:
        shown["none@video"] = uncompressed(checkpoint, image_size, Sharing(2))
    check_size(checkpoint, shown, options)
    entry = PlanEntry(none, "", "", size=image_size, precision=options.dtype)
    manifest = make_manifest(checkpoint, options, {"none": entry}, "none", {}, set(), {})
    return dataclasses.replace(manifest, prompt=dataclasses.replace(manifest.prompt, position_copies=POSITION_COPIES))


def canvas_of(checkpoint: Checkpoint, bundle: Bundle, plan: str | None = None) -> Manifest:
    """The canvas of a bundle's plan, what is written around pictures taken from the checkpoint's own family."""
    manifest = bundle.manifest
    grids = tuple(cut.tiles for cut in manifest.prompt.cuts if cut.used != "together") or ((1, 1),)
    image = dataclasses.replace(manifest.image, size=bundle.entry(plan).size)
    template = canvas(checkpoint, image.size, image.fit, grids, manifest.prompt.video is not None)
    prompt = dataclasses.replace(template.prompt, text_capacity=manifest.prompt.text_capacity)
    return dataclasses.replace(template, image=image, prompt=prompt)


def canvas_for(checkpoint: Checkpoint, image: ImageInput | Manifest) -> Manifest:
    """``image`` itself where it is a canvas; else pictures fitted so, without tiles and videos."""
    if isinstance(image, Manifest):
        return image
    return dataclasses.replace(canvas(checkpoint, image.size, image.fit), image=image)


def prepare(case: Case, encoder: PromptEncoder, manifest: Manifest, plan: Plan) -> Request:
    """Token ids and images of a case, as a session makes them.

    Raises:
        UsageError: A picture cannot be read, the plan or the bundle does not take such media, or the prompt does not
            fit, as ``run`` says it.
    """
    frames = manifest.image.frames * plan.sharing.images if plan.sharing.shared else DEFAULT_FRAMES
    request = make_request(open_media(asked(case, frames), manifest), encoder, manifest, manifest.image.size, plan)
    token_limit(manifest, plan, request)
    return request


def uncompressed(checkpoint: Checkpoint, size: tuple[int, int], sharing: Sharing = Sharing()) -> Plan:
    """The plan that changes nothing, for images, whole videos or pictures in tiles."""
    unit, video = checkpoint.family.unit_pixels(checkpoint.config), checkpoint.family.video(checkpoint.config)
    rows, columns = (max(1, side // unit) for side in size)
    pooled_from = None
    if sharing.kind == "clip" and video is not None and video.pooled is not None:
        pooled_from, (rows, columns) = (rows, columns), video.pooled
    shape = checkpoint.family.decoder_shape(checkpoint.config)
    keep = unshared((rows * columns * sharing.images,) * shape.layers, shape)
    llm = LlmPlan(keep, last_layer="full", shared=shape.shared)
    return Plan(EncoderPlan((rows, columns), pooled_from=pooled_from), llm, sharing.without_quota(), "none")
