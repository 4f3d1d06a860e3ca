"""A bundle that answers: pictures and a prompt in, text out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, overload

from luvc_export.bundle.folder import Bundle
from luvc_export.core.options import settled
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.runtime.adapters.table import Adapters
from luvc_export.runtime.engine.embed import Embeds
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.engine.generate import answer, past_of
from luvc_export.runtime.engine.generate_batch import Ask, Prepared, answer_batch, check_ask, in_row
from luvc_export.runtime.engine.plan_routing import PlanRouter
from luvc_export.runtime.generation.plan_residency import PlanResidency
from luvc_export.runtime.generation.result import Generation, Stream
from luvc_export.runtime.generation.sampling import Sampling, sampling_from
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.picture_limits import allow
from luvc_export.runtime.media.pictures import Picture
from luvc_export.runtime.media.video import DEFAULT_FRAMES, VideoSource
from luvc_export.runtime.model import Backend
from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.runtime.prompt.question import OpenedQuestion, Question, question
from luvc_export.runtime.prompt.request import Request, open_media
from luvc_export.runtime.prompt.template import Message, template_values
from luvc_export.runtime.session_options import SessionOptions

if TYPE_CHECKING:
    from luvc_export.runtime.generation.guided import Grammars

#: Bytes of visual features that ``remember`` keeps at most, whatever the number of groups.
REMEMBERED_BYTES = 2**31


class Session(Embeds):
    """Answers questions with a plan of a bundle and its variants: the one that fits a question answers it.

    Holds no conversation, so an interrupted answer leaves it usable.

    Args:
        bundle: A bundle's folder, or one already read with ``luvc_export.bundle.folder.load``.
        backend: A name (``runtime.backends``), or an object that derives from ``runtime.model.Backend``; None for that
            of ``options``, and ``cpu`` without any.
        plan: Name of a plan; None for that of ``options``, and the bundle's default without any.
        threads: CPU threads; None for those of ``options``.
        debug: Use the debug decoder, whose prunes are told what to keep (``forced``).
        options: What else is set; None for what is usual.
        **settings: Fields of ``SessionOptions`` by name, which go before those of ``options``. ``open_plans`` None is
            one of a plan and its buckets, and as many of the others as memory holds. ``remember`` is of ``generate``
            alone. ``max_pixels`` holds for all sessions of this process.

    Attributes:
        default: The plan that was asked for, which answers where no variant fits better.
        plans: It and its variants, by name.
        adapters: What ``adapter=NAME`` may say; loaded and let go at any time.
        features: Visual features of pictures that were asked about (``remember``).

    Raises:
        UsageError: See ``SessionOptions``; or ``open_plans`` is below 1, ``remember`` below 0, or no image size is
            below ``image_tokens``. Others: see ``LoadedPlan``.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        backend: str | Backend | None = None,
        plan: str | None = None,
        threads: int | None = None,
        debug: bool = False,
        options: SessionOptions | None = None,
        **settings: Any,
    ) -> None:
        named = settings if threads is None else {**settings, "threads": threads}
        own = self.options = settled(SessionOptions, options, named, "Session")
        if options is not None or "max_pixels" in settings:
            allow(own.max_pixels)
        backend = backend or ("cpu" if options is None else own.backend)
        residency = PlanResidency(own.open_plans)
        self.default = LoadedPlan(bundle, backend, plan or own.plan, own, debug)
        self.default.residency = residency
        kept = own.remember
        self.features = FeatureCache(REMEMBERED_BYTES, kept, prefixes=False) if kept else FeatureCache(0)
        another = partial(LoadedPlan, self.bundle, backend, options=own, debug=debug)
        opens = (lambda name: another(plan=name)) if isinstance(backend, str) else None
        self.plans = PlanRouter(self.default, opens, own.image_tokens)
        self.adapters = Adapters(self.bundle.manifest, self.plans.forget, own.lora)

    @property
    def plan(self) -> Plan:
        """The default plan; a variant of it may answer."""
        return self.default.plan

    @property
    def plan_name(self) -> str:
        """Name of the default plan."""
        return self.default.plan_name

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the default plan's images in pixels."""
        return self.default.size

    @property
    def backend(self) -> Backend:
        """What runs the default plan; its variants are run by others of the same kind."""
        return self.default.backend

    @property
    def choice(self) -> str | None:
        """What ``auto`` took, and why nothing before it; None where a back-end was named."""
        return self.default.choice

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the default plan and how it is computed, see ``LoadedPlan.notes``."""
        return self.default.notes

    @property
    def encoder(self) -> PromptEncoder:
        """Writes and tokenises prompts."""
        return self.default.encoder

    @property
    def grammars(self) -> Grammars:
        """What guides answers by a schema or pattern."""
        return self.default.grammars

    def load(self, images: bool = True) -> None:
        """Load the default plan: see ``LoadedPlan.load``."""
        self.default.load(images=images)

    def warm_up(self, images: int = 1) -> float:
        """Load the default plan and answer once about nothing; seconds it took. See ``LoadedPlan.warm_up``."""
        return self.default.warm_up(images)

    @overload
    def generate(
        self,
        image: Picture | Sequence[Picture] | None = None,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        *,
        video: VideoSource | None = None,
        fps: float | None = None,
        after: Generation | None = None,
        image_tokens: int | None = None,
        adapter: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        stream: Literal[False] = False,
        **sampling: Any,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        image: Picture | Sequence[Picture] | None = None,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        *,
        video: VideoSource | None = None,
        fps: float | None = None,
        after: Generation | None = None,
        image_tokens: int | None = None,
        adapter: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        stream: Literal[True],
        **sampling: Any,
    ) -> Stream: ...

    def generate(
        self,
        image: Picture | Sequence[Picture] | None = None,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        *,
        video: VideoSource | None = None,
        fps: float | None = None,
        after: Generation | None = None,
        image_tokens: int | None = None,
        adapter: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        stream: bool = False,
        **sampling: Any,
    ) -> Generation | Stream:
        """Answer a question about pictures, a video, or neither.

        Of a bundle with several image sizes, the one that fits the largest picture best is used for all of them
        (``Generation.selection.size``). A variant for whole videos answers questions about videos alone.

        Args:
            image: A picture (path, bytes, PIL image, array) or a list of them.
            prompt: The question; the pictures stand before it. Or:
            messages: A chat in Hugging Face's form; ``{"type": "image"}`` and ``{"type": "video"}`` parts say where the
                pictures and videos stand.
            video: A film, a folder of frames or an animated picture (path or a file's bytes), of which as many frames
                are taken as ``video_frames`` says; or frames in order. Where the bundle takes videos.
            fps: How many of those frames make a second; None takes what the file says, else 2.
            after: The answer before this one. ``messages`` still hold the whole chat, and ``image`` all its pictures;
                what the caches hold already is not run again (``Generation.reused``): pictures stay pruned as they are.
            image_tokens: Most visual tokens that a picture may become before compression; the bundle's sizes of more
                are not used. A chat keeps the size that it began with.
            adapter: Name of one of ``adapters``; None for the base model. Another one than before runs the whole chat.
            chat_template_kwargs: Variables of the chat template beside its own, such as ``{"enable_thinking": False}``.
            stream: Return a ``Stream`` of text pieces in place of the whole answer. What is wrong with the input is
                raised at once in both cases.
            **sampling: Fields of ``Sampling``: temperature, top_k, top_p, min_p, seed, max_new_tokens, stop, penalties,
                logit_bias, logprobs, mask, json_schema, regex and others. What is not given is as the model's makers
                meant it (``Manifest.generation``), as in transformers' ``generate``; ``greedy=True`` takes the most
                likely token, without penalties.

        Raises:
            UsageError: Bad input (picture, prompt, sampling), or a prompt too long for the bundle or the model.
            CheckFailed: The model's logits are not finite.
            MachineError: See the class.
        """
        options, started = self.sampling(sampling), perf_counter()
        wanted = question(image, prompt, messages, video, fps, self.video_frames())
        values = template_values(chat_template_kwargs)
        wanted = replace(wanted, image_tokens=image_tokens, adapter=self.adapters.find(adapter), values=values)
        asked = open_media(wanted, self.bundle.manifest)
        past = past_of(after, self.bundle.manifest)
        chosen, request = self.fit(asked, past.loaded if past else None)
        budget = chosen.token_limit(request, options.max_new_tokens)
        ready = perf_counter() - started
        continued = past if past and chosen is past.loaded and past.begins(request) else None
        pieces = Stream(answer(chosen, request, options, budget, ready, continued, self.features))
        if stream:
            return pieces
        for _ in pieces:
            pass
        return pieces.result

    def generate_batch(self, requests: Sequence[Ask], **sampling: Any) -> list[Generation]:
        """Answer several questions in one go, each as ``generate`` would answer it alone.

        Prompts with equally many images of one size run in one call, and answers share the calls of a step. An engine
        built for fewer answers at a time takes the others as those end. Answers cannot be continued (``after`` runs
        the whole chat).

        Args:
            requests: Arguments of ``generate`` by name: image, prompt, messages, video, fps, image_tokens, adapter,
                chat_template_kwargs.
            **sampling: As of ``generate``, for every row.

        Returns:
            Answers in the order of ``requests``. Times are those of the rows that ran together; ``kv_mib`` is a row's
            share of their caches.

        Raises:
            UsageError: As ``generate``, naming the row, before anything runs.
            CheckFailed: See ``generate``.
            MachineError: See the class.
        """
        options, started = self.sampling(sampling), perf_counter()
        ready: list[Prepared] = []
        for row, ask in enumerate(requests):
            with in_row(row):
                check_ask(ask)
                arguments = (ask.get("image"), ask.get("prompt"), ask.get("messages"), ask.get("video"), ask.get("fps"))
                most, adapter = ask.get("image_tokens"), self.adapters.find(ask.get("adapter"))
                asked = replace(question(*arguments, self.video_frames()), image_tokens=most, adapter=adapter)
                asked = replace(asked, values=template_values(ask.get("chat_template_kwargs")))
                ready.append(self.prepare_row(asked, options))
        return self.answer_rows(ready, options, perf_counter() - started)

    def sampling(self, options: Mapping[str, Any]) -> Sampling:
        """Fields of ``Sampling``, and ``greedy``, as one; the model's own where nothing is given.

        Raises:
            UsageError: The bundle's task is another; an unknown name or a wrong value, or a guide that cannot be made.
        """
        self.bundle.check_task("generate")
        return self.grammars.guided(sampling_from(options, self.bundle.manifest.generation))

    def prepare_row(self, asked: Question, options: Sampling) -> Prepared:
        """Make one question of a batch ready; ``options`` are those its rows share. Raises what ``generate`` raises."""
        chosen, request = self.fit(open_media(asked, self.bundle.manifest))
        budget = chosen.token_limit(request, options.max_new_tokens)
        return Prepared(chosen, request, budget)

    def batches_of(self, ready: Sequence[Prepared], most: int | None = None) -> list[list[int]]:
        """Which rows one call of ``answer_rows`` takes: of one plan, with equally many images, ``most`` at most.

        Where slots are the device's, images and ``most`` do not matter. Rows of a plan that is loaded come first.
        """
        device = self.backend.capabilities.device_slots
        groups: dict[tuple[int, int], list[int]] = {}
        for row, one in enumerate(ready):
            groups.setdefault((id(one.loaded), 0 if device else len(one.request.images)), []).append(row)
        batches = sorted(groups.values(), key=lambda group: not ready[group[0]].loaded.is_resident)
        if most is None or device:
            return batches
        return [group[first : first + most] for group in batches for first in range(0, len(group), most)]

    def answer_rows(self, ready: Sequence[Prepared], options: Sampling, spent: float = 0.0) -> list[Generation]:
        """Answer rows in one go.

        Args:
            ready: See ``prepare_row``.
            options: How tokens are chosen; each row draws with a random state of its own.
            spent: Seconds that preparing took.

        Raises:
            CheckFailed: Logits of a row are not finite.
            MachineError: See the class.
        """
        return answer_batch(ready, options, spent)

    def fit(self, asked: OpenedQuestion, loaded: LoadedPlan | None = None) -> tuple[LoadedPlan, Request]:
        """A question with opened media made ready for ``loaded``, by default the plan that fits its pictures.

        A chat goes on with ``loaded``, unless that is a bucket that a later picture does not fit into, or a plan that
        shares budgets over whole videos or tiles, which takes nothing else.

        Raises:
            UsageError: See ``make_request`` and ``PlanRouter.fitting``; or ``loaded`` is above the ceiling.
        """
        if loaded is not None and loaded is not self.default and loaded.plan.sharing.shared:
            fitting = self.plans.fitting(asked).plan.sharing
            if fitting.without_quota() != loaded.plan.sharing.without_quota():
                return self.fit(asked)
        if loaded is not None and asked.image_tokens is not None and loaded.plan.units > asked.image_tokens:
            raise UsageError(
                "a chat keeps the image size that it began with",
                where="image_tokens",
                got=str(asked.image_tokens),
                expected=f"{loaded.plan.units} or more, or a chat from its beginning",
            )
        chosen = loaded or self.plans.fitting(asked)
        request = chosen.request(asked)
        if loaded is None:
            return self.plans.bucket(chosen, request)
        novel = request.novel if chosen.plan.encoder.takes_units and chosen is not self.default else None
        if novel is not None and len(novel) and novel.sum((1, 2)).max() > chosen.plan.encoder.computed_units:
            return self.fit(asked)
        return chosen, request

    def video_frames(self, most: int = DEFAULT_FRAMES) -> int:
        """How many frames of a video this bundle looks at: those its video plan was made for, else ``most`` that fit.

        ``runtime.media.video.open_video`` samples so many.
        """
        return self.plans.video_frames(most)

    def prepare(
        self,
        image: Picture | Sequence[Picture] | None = None,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        video: VideoSource | None = None,
        fps: float | None = None,
    ) -> Request:
        """Preprocess pictures for the plan that answers (``Request.plan``) and tokenise; arguments as of ``generate``.

        Raises what ``generate`` raises.
        """
        asked = question(image, prompt, messages, video, fps, self.video_frames())
        return self.fit(open_media(asked, self.bundle.manifest))[1]

    def token_limit(self, request: Request, wanted: int | None = None) -> int:
        """How many tokens may be generated after a request of ``prepare``: ``wanted``, or as many as fit.

        Raises what ``runtime.prompt.request.token_limit`` raises.
        """
        return self.plan_of(request).token_limit(request, wanted)

    def answer(self, request: Request, **sampling: Any) -> Generation:
        """Answer a request of ``prepare``, as ``generate`` answers the question it was made of.

        Raises:
            UsageError: Wrong sampling, or see ``token_limit``.
            CheckFailed: See ``generate``.
            MachineError: See the class.
        """
        options, loaded = self.sampling(sampling), self.plan_of(request)
        pieces = Stream(answer(loaded, request, options, loaded.token_limit(request, options.max_new_tokens), 0.0))
        for _ in pieces:
            pass
        return pieces.result

    def plan_of(self, request: Request) -> LoadedPlan:
        """The plan that ``request`` was made ready for."""
        return self.default if request.plan is None else self.plans[request.plan]
