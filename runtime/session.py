"""A bundle that answers: pictures and a prompt in, text out."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from luvc_export import contract
from luvc_export.bundle import Bundle, load
from luvc_export.errors import UsageError
from luvc_export.layout import Block, arrange
from luvc_export.runtime.backend import Array, Backend, Cache
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.detokenise import TextStream
from luvc_export.runtime.generation import Generation, Selection, Stream
from luvc_export.runtime.pictures import Picture, open_picture
from luvc_export.runtime.preprocess import best_fit
from luvc_export.runtime.prompt import Clip, PromptEncoder, Question, question
from luvc_export.runtime.request import Request, make_request, open_media
from luvc_export.runtime.sampling import Sampler, Sampling, sampling_from
from luvc_export.runtime.template import Message
from luvc_export.runtime.timing import Timings

#: No tokenizer has it.
NO_TOKEN = -1


@dataclass(frozen=True)
class Seen:
    """What the vision graph gives.

    Args:
        embeds: float32 [n, N_0, D].
        positions: float32 [n, N_0, 2 * copies].
        merged_into: int64 [n, H0 * W0].
    """

    embeds: Array
    positions: NDArray[np.float32]
    merged_into: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class State:
    """Where a conversation stands. Never changed: any state can be continued, more than once."""

    cache: Cache
    past_text: int
    next_position: int
    next_order: int


@dataclass(frozen=True)
class Past:
    """A conversation so far: the session it ran in, the ids and images its caches hold, and where it stands."""

    session: Session
    token_ids: tuple[int, ...]
    images: NDArray[np.uint8]
    state: State


@dataclass(frozen=True)
class Step:
    """Logits float32 [1, n, vocab], the state after them, and what was kept.

    ``kept`` holds for each pruning layer with a budget above 0 int64 [G, keep]: tokens of the vision graph, ascending.
    """

    logits: NDArray[np.float32]
    state: State
    kept: dict[int, NDArray[np.int64]]


class Session:
    """Runs one plan of a bundle. Holds no conversation, so an interrupted answer leaves it usable.

    Args:
        bundle: A bundle's folder, or one already read with ``luvc_export.bundle.load``.
        backend: A name (``runtime.backends``), or an object that follows ``runtime.backend.Backend``.
        plan: Name of a plan; None for the bundle's default.
        threads: CPU threads; None for all cores.
        debug: Use the debug decoder, whose prunes are told what to keep (``forced``).

    Raises:
        BundleError: See ``luvc_export.bundle.load``.
        UsageError: Unknown back-end or plan, or a bundle without weights.
        MachineError: The machine lacks the back-end or memory (memory is checked when the graphs load).
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        backend: str | Backend = "cpu",
        plan: str | None = None,
        threads: int | None = None,
        debug: bool = False,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load(bundle)
        self.plan = self.bundle.entry(plan).plan
        self.size = self.bundle.entry(plan).size or self.bundle.manifest.image.size
        self._sizes = self.bundle.sizes_of(plan) if isinstance(backend, str) else {self.size: ""}
        self._another = partial(Session, self.bundle, backend, threads=threads, debug=debug)
        self._others: dict[tuple[int, int], Session] = {}
        if isinstance(backend, str):
            backend = open_backend(backend, self.bundle, plan, threads, debug)
        self.backend = backend
        self.encoder = PromptEncoder(self.bundle)
        self._debug = debug

    @overload
    def generate(
        self,
        image: Picture | Sequence[Picture] | None = None,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        *,
        video: Sequence[Picture] | None = None,
        fps: float = 2.0,
        after: Generation | None = None,
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
        video: Sequence[Picture] | None = None,
        fps: float = 2.0,
        after: Generation | None = None,
        stream: Literal[True],
        **sampling: Any,
    ) -> Stream: ...

    def generate(
        self,
        image: Picture | Sequence[Picture] | None = None,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        *,
        video: Sequence[Picture] | None = None,
        fps: float = 2.0,
        after: Generation | None = None,
        stream: bool = False,
        **sampling: Any,
    ) -> Generation | Stream:
        """Answer a question about pictures, a video, or neither.

        Of a bundle with several image sizes, the one that fits the largest picture best is used for all of them
        (``Generation.selection.size``).

        Args:
            image: A picture (path, bytes, PIL image, array) or a list of them.
            prompt: The question; the pictures stand before it. Or:
            messages: A chat in Hugging Face's form; ``{"type": "image"}`` and ``{"type": "video"}`` parts say where the
                pictures and videos stand.
            video: Frames of a video, in order, where the bundle takes videos.
            fps: How many of those frames make a second.
            after: The answer before this one. ``messages`` still hold the whole chat, and ``image`` all its pictures;
                what the caches hold already is not run again (``Generation.reused``): pictures stay pruned as they are.
            stream: Return a ``Stream`` of text pieces in place of the whole answer. What is wrong with the input is
                raised at once in both cases.
            **sampling: Fields of ``Sampling``: temperature, top_k, top_p, seed, max_new_tokens, stop.

        Raises:
            UsageError: Bad input (picture, prompt, sampling), or a prompt too long for the bundle or the model.
            CheckFailed: The model's logits are not finite.
            MachineError: See the class.
        """
        options = sampling_from(sampling)
        started = perf_counter()
        asked = open_media(question(image, prompt, messages, video, fps))
        past: Past | None = after.past if after else None
        chosen = past.session if past else self.fitting(asked)
        request = make_request(asked, chosen.encoder, self.bundle.manifest, chosen.size)
        budget = chosen.room(request, options.max_new_tokens)
        ready = perf_counter() - started
        pieces = Stream(
            chosen._answer(request, options, budget, ready, past if past and goes_on(request, past) else None)
        )
        if stream:
            return pieces
        for _ in pieces:
            pass
        return pieces.result

    def fitting(self, asked: Question) -> Session:
        """The session for the image size that fits the largest picture of ``asked`` best: this one, or a sister."""
        shown = [item.frames[0] if isinstance(item, Clip) else item for item in asked.media]
        if len(self._sizes) == 1 or not shown:
            return self
        largest = max((open_picture(picture).size for picture in shown), key=lambda size: size[0] * size[1])
        size = [*self._sizes][best_fit(largest, [*self._sizes])]
        if size != self.size and size not in self._others:
            self._others[size] = self._another(plan=self._sizes[size])
        return self if size == self.size else self._others[size]

    def prepare(
        self,
        image: Picture | Sequence[Picture] | None = None,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        video: Sequence[Picture] | None = None,
        fps: float = 2.0,
    ) -> Request:
        """Preprocess pictures for this session's image size and tokenise; arguments as of ``generate``."""
        asked = open_media(question(image, prompt, messages, video, fps))
        return make_request(asked, self.encoder, self.bundle.manifest, self.size)

    def room(self, request: Request, wanted: int | None = None) -> int:
        """How many tokens may be generated: ``wanted``, or as many as fit.

        Raises:
            UsageError: The prompt, or the prompt and ``wanted``, do not fit the model's context (counted without
                compression, as its positions are) or the bundle's text capacity; or there is no text.
        """
        manifest = self.bundle.manifest
        text = len(request.token_ids) - len(request.images)
        if not text:
            raise UsageError("the prompt has no text", where="prompt", fix="ask something")
        visual = len(request.images) * self.plan.units
        limits = (
            ("the model's context", manifest.decoder.context - visual, "ask less, or about fewer pictures"),
            ("the bundle's text capacity", manifest.prompt.text_capacity, "export with a larger --text-capacity"),
        )
        for name, limit, fix in limits:
            if text + (wanted or 1) > limit:
                places = f" + {visual} visual places" if "context" in name else ""
                raise UsageError(
                    f"the prompt is longer than {name}",
                    where="prompt" if text >= limit else "prompt and max_new_tokens",
                    got=f"{text} text tokens{places} + {wanted or 'at least 1'} new",
                    expected=f"at most {limit + (visual if places else 0)} in all",
                    fix=fix if text >= limit else f"max_new_tokens of {limit - text} or less; or {fix}",
                )
        return wanted or min(limit for _, limit, _ in limits) - text

    def see(self, images: NDArray[np.uint8]) -> Seen:
        """Run the vision graph on uint8 [n, F, H, W, 3]; without images, return arrays of zero rows."""
        manifest, tokens = self.bundle.manifest, self.plan.vision_tokens
        if not len(images):
            embeds = np.zeros((0, tokens, manifest.visual_width), np.float32)
            copies = manifest.prompt.position_copies if self.plan.positions == "multi" else 1
            return Seen(embeds, np.zeros((0, tokens, 2 * copies), np.float32))
        out = self.backend.vision(images)
        return Seen(out[contract.VISUAL_EMBEDS], out[contract.VISUAL_POSITIONS], out.get(contract.MERGED_INTO))

    def run(
        self,
        token_ids: Sequence[int],
        seen: Seen | None = None,
        state: State | None = None,
        *,
        blocks: Mapping[int, Block] | None = None,
        all_logits: bool = False,
        forced: Mapping[int, NDArray[np.int64]] | None = None,
    ) -> Step:
        """Run the decoder: a prompt (prefill), or more tokens after ``state`` (decode, or a chat's next turn).

        Args:
            token_ids: Text tokens, with a placeholder per image of ``seen``.
            seen: Images of this call; without any, every token is text.
            state: What came before.
            blocks: Images that belong together (``Request.blocks``).
            all_logits: Logits of every text token (parity); otherwise of the last one.
            forced: With ``debug``, what each prune keeps: layer -> int64 [G, keep] as in ``Step.kept``, ascending.

        Returns:
            ``Step``; its logits are those of text tokens only, in order.
        """
        prompt, past = self.bundle.manifest.prompt, state.past_text if state else 0
        placeholder = prompt.image_token_id if seen else NO_TOKEN
        seen = seen or self.see(np.zeros((0,), np.uint8))
        layout = arrange(
            list(token_ids),
            placeholder,
            seen.positions,
            self.plan.grid,
            prompt.position_kind,
            state.next_position if state else 0,
            state.next_order if state else 0,
            blocks,
        )
        text = layout.input_ids.shape[1]
        feeds: dict[str, Array] = {
            contract.VISUAL_EMBEDS: seen.embeds[None],
            contract.INPUT_IDS: layout.input_ids,
            contract.VISUAL_POSITION_IDS: layout.visual_position_ids,
            contract.POSITION_IDS: layout.position_ids,
            contract.VISUAL_ORDER: layout.visual_order,
            contract.ORDER: layout.order,
            contract.TEXT_MASK: np.ones((1, past + text), np.bool_),
            contract.LOGITS_INDICES: np.arange(0 if all_logits else text - 1, text, dtype=np.int64)[None],
            **(self._forced(forced or {}, len(seen.embeds)) if self._debug else {}),
        }
        out, cache = self.backend.decode(feeds, state.cache if state else None)
        names = {layer: contract.kept_name(layer) for layer, _, _ in self.plan.prunes}
        kept = dict(forced or {}) or {layer: out[name][0] for layer, name in names.items() if name in out}
        after = State(cache, past + text, layout.next_position, layout.next_order)
        return Step(out[contract.LOGITS], after, kept)

    def _forced(self, forced: Mapping[int, NDArray[np.int64]], groups: int) -> dict[str, Array]:
        """Turn indices of the vision graph's tokens into places in the span that enters each prune, as graphs count."""
        feeds: dict[str, Array] = {}
        entering = np.broadcast_to(np.arange(self.plan.vision_tokens), (groups, self.plan.vision_tokens))
        for layer, _, keep in self.plan.prunes:
            if not keep:
                continue
            indices = forced.get(layer, np.zeros((0, keep), np.int64))
            places = [np.flatnonzero(np.isin(row, wanted)) for row, wanted in zip(entering, indices, strict=False)]
            if indices.shape != (groups, keep) or any(len(found) != keep for found in places):
                raise UsageError(
                    "a debug session must be told what each prune keeps",
                    where=f"forced[{layer}]",
                    got=f"int64 {list(indices.shape)}",
                    expected=f"[{groups}, {keep}] different tokens that the prune before kept, ascending",
                )
            feeds[contract.forced_name(layer)] = np.array(places, np.int64).reshape(1, groups, keep)
            entering = indices
        return feeds

    def _answer(
        self, request: Request, options: Sampling, budget: int, ready: float, past: Past | None
    ) -> Generator[str, None, Generation]:
        """Generate. Only the work itself is timed, not what the reader of the stream does between pieces."""
        whole, done = request, len(past.token_ids) if past else 0
        request = request.rest(done, len(past.images)) if past else request
        self.backend.load(images=len(request.images) > 0)
        sampler, text = Sampler(options), TextStream(self.encoder.tokenizer, options.stop)
        ends = frozenset(self.bundle.manifest.prompt.eos_token_ids)
        marks = [perf_counter()]
        seen = self.see(request.images)
        marks.append(perf_counter())
        step = self.run(request.token_ids, seen, past.state if past else None, blocks=request.blocks)
        marks.append(perf_counter())
        kept, ids = step.kept, [sampler(step.logits[0, -1], 0)]
        first, decoding = ready + perf_counter() - marks[0], 0.0
        while ids[-1] not in ends:
            if piece := text.push(ids[-1]):
                yield piece
            if text.stopped or len(ids) == budget:
                break
            begin = perf_counter()
            step = self.run(ids[-1:], state=step.state)
            ids.append(sampler(step.logits[0, -1], len(ids)))
            decoding += perf_counter() - begin
        if piece := text.flush():
            yield piece
        cache = step.state.cache
        visual = tuple(length - step.state.past_text for length in cache.lengths)
        timings = Timings(
            preprocess_ms=ready * 1000,
            vision_ms=(marks[1] - marks[0]) * 1000 if len(request.images) else 0.0,
            prefill_ms=(marks[2] - marks[1]) * 1000,
            ttft_ms=first * 1000,
            decode_tokens=len(ids) - 1,
            decode_ms=decoding * 1000,
            kv_mib=cache.nbytes / 2**20,
            visual_tokens=visual,
        )
        reason: Literal["stop", "length"] = "stop" if text.stopped or ids[-1] in ends else "length"
        selection = Selection(self.plan.grid, seen.merged_into, kept, request.placements, self.size, request.tiles)
        now = Past(self, (*whole.token_ids, *ids[:-1]), whole.images, step.state)
        return Generation(text.text, tuple(ids), reason, timings, visual, selection, done, now)


def goes_on(request: Request, past: Past) -> bool:
    """Whether a chat's next request begins with all that ``past`` holds, and has more."""
    held, shown = len(past.token_ids), len(past.images)
    same = request.token_ids[:held] == past.token_ids and len(request.token_ids) > held
    return same and np.array_equal(request.images[:shown], past.images)
