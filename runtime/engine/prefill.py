"""A job's prompt -> its first logits: pictures through the encoder, the prompt up to the last picture, the question.

Where prefixes are kept, hit or miss run the very same calls after what was in the cache: every group of images is
encoded in a call of its own, and the prompt is always cut in two. So a hit answers as its miss did, to the last bit.
Where slots lie in a device's memory, keys and values stay there: no prefix is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from luvc_export.core.token_layout import behind
from luvc_export.runtime.engine.answers import Answers
from luvc_export.runtime.engine.feature_cache import FeatureCache, Keys, Prefix, Source
from luvc_export.runtime.engine.host_slots import open_slots
from luvc_export.runtime.engine.job import Answer, Job, Prefilled
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.model import Joined, TokensPrompt
from luvc_export.runtime.prompt.request import Request, SomeImages, all_shown
from luvc_export.runtime.state import State, VisualFeatures, join_features


def prefix_length(request: Request, image_token: int, grid: tuple[int, int]) -> int | None:
    """Tokens up to the last picture and the one after it (a call needs text); None where nothing is left to ask.

    Row ends of a mosaic belong to its picture, and so do marks on a canvas.
    """
    images = [place for place, token in enumerate(request.token_ids) if token == image_token]
    if not images:
        return None
    last = images[-1]
    for first, block in request.blocks.items():
        if first + block.images == len(images):
            last += behind(block, request.token_ids, last, image_token, grid)
    return last + 2 if last + 2 < len(request.token_ids) else None


def prompt_of(request: Request, features: VisualFeatures | None = None) -> TokensPrompt:
    """All of a request, as slots read it."""
    return TokensPrompt(request.token_ids, features, request.blocks, request.adapter)


def read(loaded: LoadedPlan, prompt: TokensPrompt, after: State | None = None) -> State:
    """Where a conversation stands once a prompt was read, behind ``after`` or from its beginning; nobody answers."""
    slots = open_slots(loaded.graphs, several=False)
    if after is None:
        (joined,) = slots.join([prompt])
        return slots.snapshot(joined.slot)
    slot = slots.restore(after)
    slots.extend(slot, prompt)
    return slots.snapshot(slot)


class Prefiller:
    """Runs prompts for one plan.

    Args:
        loaded: Runs the graphs.
        cache: Where encoded pictures and prefixes are kept.
    """

    def __init__(self, loaded: LoadedPlan, cache: FeatureCache) -> None:
        self._loaded, self._cache, self._keys = loaded, cache, Keys(loaded.fingerprint if cache.limit else b"")
        causal = loaded.bundle.manifest.prompt.prefix is None
        can = loaded.backend.capabilities
        caches = can.host_caches and loaded.bundle.manifest.does.decodes
        self._cuts = cache.prefixes and caches and causal and not loaded.plan.reads_text
        self._device_slots = can.device_slots

    def begin(self, answers: Answers, job: Job, grown: Sequence[Answer]) -> Prefilled:
        """Run a job's prompt, and let its answers grow with a first token each; none where one does not fit.

        Raises what ``Slots.join`` raises.
        """
        start, request, past = perf_counter(), job.request, job.past
        cut = self._cut(request) if past is None else None
        if cut is not None:
            prefix, source, shared, encoded = self._prefix(answers, request, cut)
            between = perf_counter()
            row = self._behind(answers, prefix.state, TokensPrompt(request.token_ids[cut:]))
            features, kept, merged = None, prefix.kept, prefix.merged_into
        else:
            request = request if past is None else request.rest(len(past.token_ids), len(past.images))
            features, source = self.features(request)
            shared = self._loaded.draft_features(features, past.features if past else None)
            encoded = between = perf_counter()
            prompt = prompt_of(request, features)
            (row,) = [self._behind(answers, past.state, prompt)] if past else answers.slots.join([prompt])
            kept, merged = row.kept, features.merged_into
        slots = self._copies(answers, row.slot, prompt_of(request, features), len(grown))
        for slot, answer in zip(slots, grown, strict=True):
            answer.features = shared
            answers.begin(slot, answer, row.logits)
        times = 1000 * (encoded - start), 1000 * (between - encoded), 1000 * (perf_counter() - between)
        vision = times[0] if len(request.images) else 0.0
        return Prefilled(kept, merged, source, start, vision, times[1], times[2], shared)

    def begin_together(self, answers: Answers, jobs: Sequence[Job], grown: Sequence[Answer]) -> list[Prefilled]:
        """Run the prompts of several jobs with equally many images, one answer each, in one call.

        Raises what ``Slots.join`` raises.
        """
        loaded, start, requests = self._loaded, perf_counter(), [job.request for job in jobs]
        images = len(requests[0].images)
        shown = [request.shown() for request in requests] if self._device_slots else [all_shown(requests)]
        features = join_features([loaded.encode_images(*some) for some in shown])
        own = [features.some(range(row * images, (row + 1) * images)) for row in range(len(jobs))]
        if len(jobs) == 1:
            own = [features]
        encoded = perf_counter()
        prompts = [prompt_of(request, some) for request, some in zip(requests, own, strict=True)]
        rows = answers.slots.join(prompts)
        spent = 1000 * (encoded - start) if images else 0.0, 1000 * (perf_counter() - encoded)
        began = []
        for row, answer, some in zip(rows, grown, own, strict=True):
            answer.features = loaded.draft_features(some)
            answers.begin(row.slot, answer, row.logits)
            began.append(Prefilled(row.kept, some.merged_into, "none", start, spent[0], 0.0, spent[1], answer.features))
        return began

    def features(self, request: Request) -> tuple[VisualFeatures, Source]:
        """The encoder's output for all images, from the cache where it has them."""
        if not len(request.images) or not self._cache.limit:
            return self._loaded.encode_images(*request.shown()), "none"
        groups = self._groups(request)
        return self._encoded(groups, [self._keys.image(*one) for one in groups])

    def _cut(self, request: Request) -> int | None:
        """Where a prompt is cut so that its beginning can be kept; None where nothing of it is."""
        if not self._cuts or not self._cache.limit or not len(request.images):
            return None
        manifest = self._loaded.bundle.manifest
        return prefix_length(request, manifest.prompt.image_token_id, self._loaded.plan.grid)

    def _prefix(
        self, answers: Answers, request: Request, cut: int
    ) -> tuple[Prefix, Source, VisualFeatures | None, float]:
        """Where a prompt stands after ``cut`` tokens, from the cache or run now, and when its pictures were encoded."""
        loaded, groups = self._loaded, self._groups(request)
        keys = [self._keys.image(*one) for one in groups]
        key = self._keys.prefix(request, request.token_ids[:cut], keys)
        prefix, encoded = self._cache.prefix(key), perf_counter()
        if prefix is not None:
            return prefix, "prefix", self._held(keys) if loaded.shares_features else None, encoded
        features, source = self._encoded(groups, keys)
        shared, encoded = loaded.draft_features(features), perf_counter()
        first = TokensPrompt(request.token_ids[:cut], features, request.blocks, request.adapter)
        (joined,) = answers.slots.join([first])
        prefix = Prefix(answers.slots.snapshot(joined.slot), joined.kept, features.merged_into)
        answers.slots.leave(joined.slot)
        self._cache.keep_prefix(key, prefix)
        return prefix, source, shared, encoded

    def _behind(self, answers: Answers, state: State, prompt: TokensPrompt) -> Joined:
        """Run a prompt behind ``state``."""
        slot = answers.slots.restore(state)
        try:
            return answers.slots.extend(slot, prompt)
        except BaseException:
            answers.slots.leave(slot)
            raise

    def _copies(self, answers: Answers, first: int, prompt: TokensPrompt, count: int) -> list[int]:
        """Slots that stand where ``first`` stands, itself among them: on a device the prompt runs once for each."""
        slots = [first]
        try:
            while len(slots) < count:
                if self._device_slots:
                    slots += [joined.slot for joined in answers.slots.join([prompt])]
                else:
                    slots.append(answers.slots.restore(answers.slots.snapshot(first)))
        except BaseException:
            for slot in slots:
                answers.slots.leave(slot)
            raise
        return slots

    def _groups(self, request: Request) -> list[SomeImages]:
        """Images that are encoded together: one, or those that share a budget."""
        size = self._loaded.plan.sharing.images
        return [request.shown(first, size) for first in range(0, len(request.images), size)]

    def _held(self, keys: list[bytes]) -> VisualFeatures | None:
        """What is in the cache of all groups; None where one is gone."""
        held = [features for key in keys if (features := self._cache.features(key)) is not None]
        return join_features(held) if len(held) == len(keys) else None

    def _encoded(self, groups: list[SomeImages], keys: list[bytes]) -> tuple[VisualFeatures, Source]:
        held = [self._cache.features(key) for key in keys]
        parts = [
            have or self._cache.keep_features(key, self._loaded.encode_images(*one))
            for key, have, one in zip(keys, held, groups, strict=True)
        ]
        return join_features(parts), "none" if None in held else "image"
