"""A chat request -> a job: pictures read and fitted, the prompt written, the sampler told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from luvc_export.bundle.manifest import Manifest
from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.core.image_tokens import MOST
from luvc_export.errors import LuvcError
from luvc_export.runtime.generation.grammar_trials import check_length
from luvc_export.runtime.generation.guided import MaskWork
from luvc_export.runtime.generation.sampling import Sampling, sampling_of_request
from luvc_export.runtime.media.film import HEAD, MAX_TAKEN_PIXELS, container_of
from luvc_export.runtime.media.pictures import Opened, Picture, pixels_to_decode
from luvc_export.runtime.media.video import DEFAULT_FPS, open_video
from luvc_export.runtime.prompt.question import OpenedClip, OpenedQuestion, Question, VideoClip
from luvc_export.runtime.prompt.request import largest_canvas, open_medium, takes_video
from luvc_export.runtime.session import Session
from luvc_export.serve.conversation import letters_of, value_letters, written
from luvc_export.serve.engine.jobs import Event, Job
from luvc_export.serve.http.api_errors import bad_request, explained
from luvc_export.serve.interfaces.protocol import (
    ChatRequest,
    FramesPart,
    ImagePart,
    JsonObjectFormat,
    JsonSchemaFormat,
    RefusalPart,
    RegexFormat,
    TextPart,
    VideoPart,
)
from luvc_export.serve.media.addresses import Addresses, PixelBudget
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.tools.answer_plan import AnswerPlan, offered, planned, values_of
from luvc_export.serve.tools.detection import TemplateForms

#: A ``top_p`` below the chance of any most likely token: that token alone, as 0 means.
_SMALLEST = 1e-9
#: Letters of all messages above which they are not even written as a prompt where they cannot fit.
MOST_LETTERS = 2**20
#: Seconds that pictures and films of a request may take to read.
MOST_SECONDS = 60.0
#: Seconds of computing that masks of a request's answers take, and more for each token, beside others' answers. Of
#: published schemas 99 of 100 masks take 0.6 ms, the longest 24 (docs/serving.md).
MASKS = 0.15, 0.004


@dataclass
class Asker:
    """Makes jobs.

    Args:
        models: Who can be asked.
        addresses: Reads pictures.
        max_images: Pictures of a request; a video counts as one.
        greedy: Where a request says nothing, the most likely token is taken, whatever the model's makers meant.
        pixels: Of all requests.
        tool_parser: Name of the form of calls; None has it seen by the template.
        token_ids: Inputs of vectors may be token ids.
    """

    models: Models
    addresses: Addresses
    max_images: int
    greedy: bool = False
    pixels: PixelBudget = field(default_factory=PixelBudget)
    tool_parser: str | None = None
    token_ids: bool = False
    _forms: dict[Session, TemplateForms] = field(default_factory=dict)

    def plan(self, chat: ChatRequest, plain: bool = False) -> AnswerPlan:
        """How answers are chosen and read, a grammar compiled; ``plain`` ones are text.

        Raises:
            ApiError: 404 for an unknown model, 400 for whatever is wrong with it.
        """
        model = self.models.find(chat.model)
        model.check_task("generate")
        options = sampling(chat, None if self.greedy else model.session.bundle.manifest.generation)
        try:
            if plain:
                return AnswerPlan(model.session.grammars.guided(options, MaskWork(*MASKS)))
            return planned(chat, options, self.forms(model), model.session.grammars, MaskWork(*MASKS))
        except LuvcError as error:
            wrong = explained(error, "response_format")
            wrong.param = _of_tools(error, chat) or (guide(chat) or (wrong.param, {}))[0]
            raise wrong from error

    def text(self, chat: ChatRequest) -> Question:
        """What the template is given of a chat without pictures. Raises what ``plan`` raises."""
        model = self.models.find(chat.model)
        forms = self.forms(model)
        plan = AnswerPlan(Sampling(), None, offered(chat, forms), values_of(chat, forms))
        messages, _ = self._question(chat, model, plan)
        going_on = bool(chat.continue_final_message)
        return Question(tuple(messages), (), values=plan.values, continues=going_on, tools=plan.tools)

    def forms(self, model: ServedModel) -> TemplateForms:
        """What the model's template writes; seen once."""
        if (forms := self._forms.get(model.session)) is None:
            vocab = model.session.bundle.manifest.decoder.vocab
            forms = self._forms[model.session] = TemplateForms(model.session.encoder, vocab, self.tool_parser)
        return forms

    def job(
        self, chat: ChatRequest, tell: Callable[[Event], None], arrived: float, plan: AnswerPlan
    ) -> tuple[ServedModel, Job]:
        """Make a job of a request; ``plan`` is its.

        Raises:
            ApiError: 404 for an unknown model, 400 for whatever else is wrong with it.
        """
        started = perf_counter()
        model = self.models.find(chat.model)
        messages, media = self._question(chat, model, plan)
        manifest = model.session.bundle.manifest
        with self.pixels.take(sum(one.pixels for one in media)):
            opened = tuple(self._opened(one, manifest, started) for one in media)
            most = image_tokens(chat, model.session)
            beside = (None, most, model.adapter, plan.values, bool(chat.continue_final_message), plan.tools)
            asked = OpenedQuestion(tuple(messages), opened, *beside)
            return model, self.fitted(model, asked, chat, plan, tell, arrived, started)

    def fitted(
        self,
        model: ServedModel,
        question: OpenedQuestion,
        chat: ChatRequest,
        plan: AnswerPlan,
        tell: Callable[[Event], None],
        arrived: float,
        started: float,
        where: str = "messages",
    ) -> Job:
        """The job of a question; ``started`` is when its preparation was.

        Raises:
            ApiError: 400 where it does not fit; ``where`` has it.
        """
        try:
            loaded, request = model.session.fit(question)
            room = loaded.token_limit(request)
        except LuvcError as error:
            raise explained(error, where) from error
        budget = min(plan.options.max_new_tokens or room, room)  # who asks for more is told so by finish_reason: length
        spent = 1000 * (perf_counter() - started)
        job = Job(loaded, request, plan.options, budget, chat.n or 1, tell, arrived, spent, model.name)
        job.shape = plan.shape
        return job

    def _opened(self, medium: _Medium, manifest: Manifest, started: float) -> Opened | OpenedClip:
        if (seconds := perf_counter() - started) > MOST_SECONDS:
            message = f"the pictures and films before this one took {seconds:.0f} s to read; expected: at most"
            message += f" {MOST_SECONDS:g} s for those of a request; fix: send fewer, or smaller ones"
            raise bad_request(message, param=medium.where, code="images_too_slow")
        return medium.opened(manifest)

    def _question(
        self, chat: ChatRequest, model: ServedModel, plan: AnswerPlan
    ) -> tuple[list[dict[str, Any]], list[_Medium]]:
        """The messages, and their pictures and videos, read and not decoded."""
        messages: list[dict[str, Any]] = []
        media: list[_Medium] = []
        names: dict[str, str] = {}
        addresses, encoder = self.addresses.of_one_request(), model.session.encoder
        form = self.forms(model).calls
        if (letters := sum(map(letters_of, chat.messages)) + value_letters(plan.tools)) > MOST_LETTERS:
            try:
                encoder.check_length(letters)
            except LuvcError as error:
                raise explained(error) from error
        for index, message in enumerate(chat.messages):
            whole = message.refusal if message.content is None else message.content
            content: str | list[dict[str, Any]] = whole or "" if not isinstance(whole, list) else []
            for number, part in enumerate(whole if isinstance(whole, list) else ()):
                assert not isinstance(part, str) and isinstance(content, list)
                where = f"messages[{index}].content[{number}]"
                if isinstance(part, TextPart | RefusalPart):
                    text = part.text if isinstance(part, TextPart) else part.refusal
                    content.append({"type": "text", "text": text})
                    continue
                if len(media) == self.max_images:
                    most = f"at most {self.max_images} pictures and videos a request (--max-images)"
                    message_text = f"there are too many pictures; expected: {most}"
                    raise bad_request(message_text, param=where, code="too_many_images")
                video = not isinstance(part, ImagePart)
                content.append({"type": "video" if video else "image"})
                try:
                    media.append(self._medium(part, where, model, addresses))
                except LuvcError as error:
                    raise explained(error, where) from error
            id_letters = form.id_letters if form else None
            messages.append(written(message, content, f"messages[{index}]", encoder, names, id_letters))
        return messages, media

    def _medium(
        self, part: ImagePart | VideoPart | FramesPart, where: str, model: ServedModel, addresses: Addresses
    ) -> _Medium:
        need = largest_canvas(model.session.bundle.manifest)
        if isinstance(part, ImagePart):
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            source = addresses.read(url, f"{where}.image_url")
            return _Medium(pixels_to_decode(source, need), lambda: source, where)
        takes_video(model.session.bundle.manifest)
        if isinstance(part, FramesPart):
            frames = [addresses.read(url, f"{where}.video") for url in part.video]
            return _clip(frames, part.fps, need, where)
        url, fps = (
            (part.video_url, None) if isinstance(part.video_url, str) else (part.video_url.url, part.video_url.fps)
        )
        sources = addresses.frames(url, f"{where}.video_url")
        if len(sources) > 1:
            return _clip(sources, fps, need, where)
        count = model.session.video_frames()

        def film() -> VideoClip:
            sampled = open_video(sources[0], count, fps)
            return VideoClip(sampled.frames, sampled.fps, sampled.times, sampled.of)

        coded = container_of(sources[0][:HEAD]) is not None
        pixels = MAX_TAKEN_PIXELS
        if not coded:  # an animated picture, whose frames are reduced to as many
            pixels = min(pixels, count * pixels_to_decode(sources[0], None))
        return _Medium(pixels, film, where)


@dataclass(frozen=True)
class _Medium:
    """A picture or video that was read: the pixels that decoding it makes, what gives it, and its place."""

    pixels: int
    read: Callable[[], Picture | VideoClip]
    where: str

    def opened(self, manifest: Manifest) -> Opened | OpenedClip:
        """It decoded.

        Raises:
            ApiError: It is none.
        """
        try:
            return open_medium(self.read(), manifest)
        except LuvcError as error:
            raise explained(error, self.where) from error


def _clip(frames: list[bytes], fps: float | None, need: tuple[int, int], where: str) -> _Medium:
    pixels = sum(pixels_to_decode(frame, need) for frame in frames)
    return _Medium(pixels, lambda: VideoClip(tuple(frames), fps or DEFAULT_FPS), where)


def image_tokens(chat: ChatRequest, session: Session) -> int | None:
    """Ceiling of visual tokens of a picture, of those that a request names; None where it names none."""
    (height, width), pixels = session.size, chat.mm_processor_kwargs.max_pixels
    ceilings = chat.luvc.image_tokens, chat.mm_processor_kwargs.max_soft_tokens
    named: list[int] = [tokens for tokens in ceilings if tokens is not None]
    if pixels is not None:
        named.append(min(MOST, max(1, pixels * session.plan.units // (height * width))))
    return min(named, default=None)


def guide(chat: ChatRequest) -> tuple[str, dict[str, Any]] | None:
    """The field that says what the answer is held to, and that by the name ``Sampling`` has for it; None for free ones.

    Raises:
        ApiError: It is asked for in two ways, or text that should be JSON is none.
    """
    shape, outputs = chat.response_format, chat.structured_outputs
    asked: dict[str, tuple[str, Any]] = {}
    if isinstance(shape, JsonSchemaFormat):
        asked["response_format"] = "json_schema", shape.json_schema.schema
    elif isinstance(shape, JsonObjectFormat):
        asked["response_format"] = "json_schema", shape.schema or {"type": "object"}
    elif isinstance(shape, RegexFormat):
        asked["response_format"] = "regex", shape.regex
    ways = {"guided_": (chat.guided_json, chat.guided_regex, chat.guided_choice, chat.guided_grammar)}
    if outputs is not None:
        ways["structured_outputs."] = (outputs.json, outputs.regex, outputs.choice, outputs.grammar)
        if outputs.json_object:
            asked["structured_outputs.json_object"] = "json_schema", {"type": "object"}
    for before, (schema, pattern, choice, grammar) in ways.items():
        if schema is not None:
            asked[f"{before}json"] = "json_schema", _schema(schema, f"{before}json")
        if pattern is not None:
            asked[f"{before}regex"] = "regex", pattern
        if choice is not None:
            asked[f"{before}choice"] = "regex", "|".join(map(re.escape, choice))
        if grammar is not None:
            asked[f"{before}grammar"] = "grammar", grammar
    if len(asked) > 1:
        first, second, *_ = asked
        raise bad_request(f"{first} and {second} exclude each other: give one", param=second, code="invalid_value")
    return next(((way, dict([option])) for way, option in asked.items()), None)


def _of_tools(error: LuvcError, chat: ChatRequest) -> str | None:
    """The field of tools that an error is about; None where it is about something else."""
    if error.where == "tools":
        return "tools"
    names = [tool.function.name for tool in chat.tools or ()]
    head, _, name = (error.where or "").partition(" ")
    return f"tools[{names.index(name)}].function.parameters" if head == "tool" and name in names else None


def _schema(schema: dict[str, Any] | str, param: str) -> Any:
    if isinstance(schema, dict):
        return schema
    try:
        check_length(param, schema)
        return json.loads(schema)
    except LuvcError as error:
        raise explained(error, param) from error
    except (ValueError, RecursionError) as error:
        raise bad_request(f"this is not JSON: {error}", param=param, code="invalid_value") from error


def sampling(chat: ChatRequest, defaults: GenerationDefaults | None = None) -> Sampling:
    """The sampler's options of a request; the model's ``defaults`` where it says nothing. See ``sampling_of_request``.

    Raises:
        ApiError: 400.
    """
    stop = [chat.stop] if isinstance(chat.stop, str) else chat.stop
    options = {
        "temperature": chat.temperature,
        "top_p": chat.top_p if chat.top_p is None else max(chat.top_p, _SMALLEST),
        "top_k": None if chat.top_k is None else max(chat.top_k, 0),
        "min_p": chat.min_p,
        "seed": None if chat.seed is None else chat.seed % 2**63,
        "max_new_tokens": chat.max_completion_tokens or chat.max_tokens,
        "stop": tuple(stop) if stop else None,
        "presence_penalty": chat.presence_penalty,
        "frequency_penalty": chat.frequency_penalty,
        "repetition_penalty": chat.repetition_penalty,
        "logit_bias": {int(token): value for token, value in (chat.logit_bias or {}).items()},
        "logprobs": (chat.top_logprobs or 0) if chat.logprobs else None,
        "min_new_tokens": chat.min_tokens,
        "ignore_eos": chat.ignore_eos,
        "stop_token_ids": None if chat.stop_token_ids is None else tuple(chat.stop_token_ids),
        "include_stop_str_in_output": chat.include_stop_str_in_output,
        **(guide(chat) or ("", {}))[1],
    }
    try:
        return sampling_of_request(options, defaults)
    except LuvcError as error:
        raise explained(error, None) from error
