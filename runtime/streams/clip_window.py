"""A window that slides over a stream: the last clips of it stay in the caches, and questions go on from there.

When a clip more comes than the window holds, ``rebuild`` runs the remaining ones again from their visual features:
every answer is that of a prompt of these clips. ``evict`` takes the oldest clip's rows out of the caches and leaves the
others as they are: their keys and values were made when that clip was still to be seen, and they keep their positions,
so an answer is no longer that of any prompt. How far it is from one is measured in docs/video.md (ours; no paper's).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from luvc_export.errors import UsageError
from luvc_export.runtime.engine.generate import answer
from luvc_export.runtime.engine.job import Past
from luvc_export.runtime.engine.prefill import Prefiller, read
from luvc_export.runtime.generation.result import Generation, Stream
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.video import VideoSource
from luvc_export.runtime.model import Array, TokensPrompt
from luvc_export.runtime.prompt.question import OpenedClip, question
from luvc_export.runtime.prompt.request import Request, open_media
from luvc_export.runtime.prompt.video_text import video_text
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import State, VisualFeatures

Forget = Literal["rebuild", "evict"]

#: A question that says where the clips end in a prompt.
_PROBE = "?"


@dataclass(frozen=True)
class _Clip:
    """A clip in the window: its part of the prompt, its images made ready, and what the encoder made of them."""

    token_ids: tuple[int, ...]
    shown: Request
    features: VisualFeatures

    @property
    def text(self) -> int:
        return len(self.token_ids) - len(self.shown.images)


class _Written(NamedTuple):
    """How a plan's prompts are written: before the clips, a clip of one grey moment, and what ends ``_PROBE``."""

    header: tuple[int, ...]
    clip: tuple[int, ...]
    tail: tuple[int, ...]

    @classmethod
    def by(cls, loaded: LoadedPlan) -> _Written:
        """From prompts with one clip and with two.

        Raises:
            UsageError: A second clip changes more than it adds.
        """
        one, two = (_stand_in(loaded, clips, _PROBE) for clips in (1, 2))
        size = len(two) - len(one)
        for first in range(len(one) - size + 1):
            parts = one[:first], one[first : first + size], one[first + size :]
            if size > 0 and two == (*parts[0], *parts[1], *parts[1], *parts[2]):
                return cls(*parts)
        raise _otherwise_written()

    def after(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """What stands after the clip in a prompt of the one that ``clip`` is."""
        if token_ids[: len(self.header) + len(self.clip)] != (*self.header, *self.clip):
            raise _otherwise_written()
        return token_ids[len(self.header) + len(self.clip) :]


class ClipWindow:
    """The last clips of a stream, and questions about them.

    Args:
        session: Of a bundle that takes videos. Its plan for clips answers.
        clips: W, clips in the window.
        forget: What becomes of the others when one leaves: ``rebuild`` is exact, ``evict`` runs the new clip alone.
        fps: Frames a second of clips that do not say; see ``Session.generate``.

    Attributes:
        state: Where the conversation of the clips stands, before any question; None before the first.

    Raises:
        UsageError: ``clips`` is below 1, or ``forget`` is no such word.
    """

    def __init__(self, session: Session, clips: int, forget: Forget = "rebuild", fps: float | None = None) -> None:
        if type(clips) is not int or clips < 1:
            raise UsageError("a window holds clips", where="clips", got=repr(clips)[:40], expected="1 or more")
        if forget not in get_args(Forget):
            got, expected = repr(forget)[:40], " or ".join(get_args(Forget))
            raise UsageError("no such way to forget", where="forget", got=got, expected=expected)
        self.session, self.most, self.forget, self.fps = session, clips, forget, fps
        self.state: State | None = None
        self._loaded: LoadedPlan | None = None
        self._written = _Written((), (), ())
        self._held: deque[_Clip] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def show(self, clip: VideoSource) -> None:
        """Take the newest clip in; where the window is full, the oldest leaves.

        Args:
            clip: As ``Session.generate`` takes a ``video``.

        Raises:
            UsageError: See ``Session.generate``; the model writes several clips otherwise than one after another; or,
                of the first clip with ``evict``, rows cannot be taken out of these caches: a state that every token
                changes, a layer with a window, a prompt seen both ways, a plan that reads the question, or a
                back-end that holds caches where
                the host cannot take them apart.
        """
        newest = self._open(clip)
        assert self._loaded is not None
        leaving = self._held.popleft() if len(self._held) == self.most else None
        self._held.append(newest)
        if leaving is not None and self.forget == "rebuild":
            self._rebuild()
            return
        if leaving is not None:
            assert self.state is not None
            self.state = without(
                self._loaded, self.state, len(self._written.header), leaving.text, self._groups(leaving)
            )
        self.state = self._run(newest, self._begun() if self.state is None else self.state)

    def ask(self, prompt: str, **sampling: Any) -> Generation:
        """Answer a question about the clips in the window; the window stays as it is.

        ``timings`` count from the question on. ``sampling`` as of ``Session.generate``.

        Raises:
            UsageError: No clip was shown, or see ``Session.generate``.
        """
        if self._loaded is None or self.state is None:
            raise UsageError("no clip was shown yet", where="ClipWindow.ask", fix="call show(clip) first")
        loaded, started = self._loaded, perf_counter()
        options = self.session.sampling(sampling)
        written = self._written.after(_stand_in(loaded, 1, prompt))
        shown = [clip.shown for clip in self._held]
        clips = tuple(token for clip in self._held for token in clip.token_ids)
        asked = replace(joined(shown), token_ids=(*self._written.header, *clips, *written), plan=loaded.plan_name)
        budget = loaded.token_limit(asked, options.max_new_tokens)
        needed = self.state.next_position + len(written) + budget
        if self.forget == "evict" and needed > loaded.bundle.manifest.decoder.context:
            self._rebuild()  # positions went on to the end of what the model knows
        past = Past(loaded, (*self._written.header, *clips), asked.images, self.state)
        pieces = Stream(answer(loaded, asked, options, budget, perf_counter() - started, past))
        for _ in pieces:
            pass
        return pieces.result

    def _open(self, clip: VideoSource) -> _Clip:
        asked = question(None, None, _messages([clip], _PROBE), None, self.fps, self.session.video_frames())
        loaded, shown = self.session.fit(open_media(asked, self.session.bundle.manifest), self._loaded)
        if self._loaded is None:
            if self.forget == "evict":
                check_evictable(loaded)
            self._written, self._loaded = _Written.by(loaded), loaded
        elif loaded is not self._loaded:
            raise UsageError(
                "this clip takes another plan than the window's",
                where="clip",
                got=loaded.plan_name,
                expected=self._loaded.plan_name,
            )
        header, end = self._written.header, len(shown.token_ids) - len(self._written.tail)
        if (shown.token_ids[: len(header)], shown.token_ids[end:]) != (header, self._written.tail):
            raise _otherwise_written()
        loaded.load(images=True)
        features, _ = Prefiller(loaded, self.session.features).features(shown)
        return _Clip(shown.token_ids[len(header) : end], shown, replace(features, embeds=np.asarray(features.embeds)))

    def _groups(self, clip: _Clip) -> int:
        assert self._loaded is not None
        return self._loaded.plan.sharing.groups(len(clip.shown.images))

    def _begun(self) -> State | None:
        assert self._loaded is not None
        return read(self._loaded, TokensPrompt(self._written.header)) if self._written.header else None

    def _run(self, clip: _Clip, state: State | None) -> State:
        assert self._loaded is not None
        return read(self._loaded, TokensPrompt(clip.token_ids, clip.features, clip.shown.blocks), state)

    def _rebuild(self) -> None:
        state = self._begun()
        for clip in self._held:
            state = self._run(clip, state)
        self.state = state


def check_evictable(loaded: LoadedPlan) -> None:
    """Check that rows of one clip can be taken out of the caches of a plan.

    Raises:
        UsageError: They cannot; says why.
    """
    manifest, backend = loaded.bundle.manifest, loaded.backend
    entry = loaded.bundle.entry(loaded.plan_name)
    states = manifest.states_of(entry)
    fixed = next((state for state in states if state.axis is None), None)
    slides = next((state for state in states if state.window is not None), None)
    why = None
    if fixed is not None:
        why = f"layer {fixed.layer} keeps a state ({fixed.name}) that every token changed: it has no rows"
    elif slides is not None:
        why = f"layer {slides.layer} looks {slides.window} places back, and what it no longer sees has left already"
    elif manifest.prompt.prefix is not None:
        why = "the model sees its whole prompt both ways"
    elif loaded.plan.reads_text:
        why = f"what score {loaded.plan.llm.method.name!r} keeps depends on the question"
    elif not backend.capabilities.host_caches:
        why = f"back-end {backend.name} keeps caches where rows cannot be taken out"
    if why is not None:
        fix = "forget='rebuild' runs the clips that stay again"
        raise UsageError("the oldest clip cannot leave the caches", where="forget='evict'", got=why, fix=fix)


def without(loaded: LoadedPlan, state: State, first: int, text: int, groups: int) -> State:
    """A conversation without one call's rows: a new state, what is left unchanged, positions as they were.

    Args:
        loaded: Whose caches; see ``check_evictable``.
        state: Where the conversation stands.
        first: Rows of every layer before that call's.
        text: Its text tokens.
        groups: What shared a budget in it.
    """
    rows = loaded.plan.cache_rows(groups, text)
    kept: list[Array] = []
    for kind, array in zip(state.cache.states, state.cache.arrays(), strict=True):
        assert kind.axis is not None
        leave = np.arange(first, first + rows[kind.layer])
        kept.append(np.delete(array, leave, axis=kind.axis))
    cache = state.cache.like(kept)
    return replace(state, cache=cache, past_text=state.past_text - text, groups=state.groups - groups)


def joined(requests: Sequence[Request]) -> Request:
    """Images of several requests as those of one; tokens are the first's."""
    first, count = requests[0], 0
    blocks: dict[int, Any] = {}
    clips: list[Any] = []
    for request in requests:
        blocks |= {place + count: block for place, block in request.blocks.items()}
        clips += [replace(clip, first=clip.first + count) for clip in request.clips]
        count += len(request.images)

    def together(name: str) -> Any:
        parts = [getattr(request, name) for request in requests]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    placements = tuple(placement for request in requests for placement in request.placements)
    stacked = {name: together(name) for name in ("images", "padding", "novelty", "units")}
    return replace(first, placements=placements, blocks=blocks, clips=tuple(clips), **stacked)


def _messages(clips: Sequence[VideoSource], prompt: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "video", "video": clip} for clip in clips]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]


def _stand_in(loaded: LoadedPlan, clips: int, prompt: str) -> tuple[int, ...]:
    """The tokens of a prompt of so many clips of one grey moment, and ``prompt``; no picture is made ready for it."""
    video = loaded.bundle.manifest.prompt.video
    assert video is not None, "the session took a clip"
    grey = [np.full((2, 2, 3), 128, np.uint8)] * video.frames
    asked = open_media(question(None, None, _messages([grey] * clips, prompt), None, None, video.frames))
    parts = [video_text(video, 1, clip) for clip in asked.media if isinstance(clip, OpenedClip)]
    return tuple(loaded.encoder.encode(asked, parts))


def _otherwise_written() -> UsageError:
    return UsageError(
        "this model's prompt does not have its clips one after another",
        where="ClipWindow",
        expected="a chat template that writes each video in its place, whatever stands before it",
        fix="ask with messages of all clips of the window: Session.generate, remember=W",
    )
