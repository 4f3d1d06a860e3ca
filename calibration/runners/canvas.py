"""What an export of a checkpoint would say of pictures and prompts: how runners without a bundle prepare questions.

Prompts go through transformers' own tokenizer and chat template, apart from the runtime's, so that parity sees both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import Fit, ImageInput, Manifest, PlanEntry, Prompt
from luvc_export.calibration.cases import Case, asked
from luvc_export.core.plan import POSITION_COPIES, EncoderPlan, LlmPlan, Plan, Sharing
from luvc_export.core.planning import unshared
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import Checkpoint
from luvc_export.export.exported_manifest import make_manifest
from luvc_export.export.options import Options, check_size
from luvc_export.export.reading.remarks import chat_template
from luvc_export.export.reading.sentence_transformers import embedding_of
from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.runtime.prompt.question import Question, VideoClip
from luvc_export.runtime.prompt.request import Request, make_request, open_media, token_limit
from luvc_export.runtime.prompt.vector_chat import input_chat, instruction_of


class Tokens(PromptEncoder):
    """Tokenizer of a checkpoint. What stands for a picture, its tiles or a video is what the family's processor writes.

    Args:
        checkpoint: Where the tokenizer is from.
        prompt: How the family writes media.
    """

    def __init__(self, checkpoint: Checkpoint, prompt: Prompt) -> None:
        from transformers import AutoTokenizer

        self.transformers: Any = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
        self.chat_template = checkpoint.family.prompts(checkpoint.folder)
        if not self.chat_template and (own := chat_template(checkpoint.folder)):
            self.chat_template = own.text
        self._where = str(checkpoint.folder)
        self._capacity, self._longest = prompt.text_capacity, max(map(len, self.transformers.get_vocab()))
        self._marks(prompt, str(self.transformers.convert_ids_to_tokens(prompt.image_token_id)))

    def render(self, asked: Question) -> str:
        """See ``PromptEncoder``; transformers renders."""
        if self.chat_template is None:
            return self._plainly(asked)
        template = self.template_of_videos(asked) or self.chat_template
        text: str = self.transformers.apply_chat_template(
            list(asked.messages),
            chat_template=template,
            tokenize=False,
            **{"add_generation_prompt": True, **asked.values},
        )
        return text

    def _ids(self, text: str) -> list[int]:
        bos = self.transformers.bos_token
        whole = self.prefix is not None or (bos and text.startswith(bos))
        return list(self.transformers(text, add_special_tokens=not whole).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer without special tokens."""
        return str(self.transformers.decode(list(ids), skip_special_tokens=True))


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
    how = None
    if not manifest.does.decodes:  # as the checkpoint itself says it, not the bundle under test
        merged = manifest.embedding.merged if manifest.embedding else (1, 1)
        how = embedding_of(checkpoint, Options(image.size, task=manifest.task, merge_vectors=merged))
    return dataclasses.replace(template, image=image, prompt=prompt, task=manifest.task, embedding=how)


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
    frames = manifest.image.frames * plan.sharing.images if plan.sharing.shared else None
    question = asked(case, frames)
    if (how := manifest.embedding) is not None:
        alone = how.pair is not None or (how.pooling == "every" and question.media)
        text = None if alone else question.plain or None  # of a pair, the query; a page has none
        question = input_chat(how, _pictures(question), text, instruction_of(how), question.plain)
    request = make_request(open_media(question, manifest), encoder, manifest, manifest.image.size, plan)
    token_limit(manifest, plan, request)
    return request


def _pictures(question: Question) -> list[Any]:
    """What a question shows.

    Raises:
        UsageError: A video, which nothing is embedded of.
    """
    if any(isinstance(one, VideoClip) for one in question.media):
        raise UsageError("vectors are of pictures and texts", where="cases", got="a video", expected="pictures")
    return list(question.media)


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


def check_shown(checkpoint: Checkpoint, plan: Plan, manifest: Manifest) -> None:
    """Check that a plan is for the pictures, tiles and videos of a canvas.

    Raises:
        PlanError: It is for others.
    """
    own, frames = manifest.image, manifest.prompt.video
    video = frames is not None and (frames.pooled is None or plan.sharing.kind == "clip")
    capacity, tiles = manifest.prompt.text_capacity, (plan.sharing.cut,)
    options = Options(own.size, own.fit, text_capacity=capacity, video=video, tiles=tiles)
    check_size(checkpoint, {plan.schedule: plan}, options)
