"""One case, loaded and run: a session fed with noise and random token ids; or plans opened one after another."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.manifest import Manifest
from luvc_export.core.plan import Plan
from luvc_export.core.plan.cost import llm_flops
from luvc_export.core.precision import WIDE, find
from luvc_export.errors import UsageError
from luvc_export.runtime.bench.case import BenchCase, CaseFacts, Sample
from luvc_export.runtime.call_times import since
from luvc_export.runtime.engine.job import Job
from luvc_export.runtime.engine.scheduler import Engine, began
from luvc_export.runtime.generation.sequence import GreedyTokens
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.memory import anonymous_bytes, peak_bytes
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.session import Session
from luvc_export.runtime.speculation.draft_costs import DraftCosts, weight_bytes

_MIB = 2**20
#: Steps of one token after an answer with drafts, to compare with.
COMPARED = 4
#: Products of a layer: query, key, value and output of attention, gate, up and down.
_PRODUCTS = 7
#: Products that no decode step computes.
_ENCODER = re.compile(r"vision|visual|multi_modal|connector|mlp1")
#: The head's weight, and the embedding's where it is the same.
_HEADS = ("lm_head", "embed_tokens")


class LoadedCase:
    """The bundle, plan and back-end of ``case``, loaded at once. ``run`` takes any case that has the same.

    Args:
        case: What to load.
        profile: Prefix of profile files, one a graph; None for none (profiling slows small graphs).

    Raises:
        LuvcError: See ``Session``.
    """

    def __init__(self, case: BenchCase, profile: str | None = None) -> None:
        begin = perf_counter()
        self.session = Session(case.bundle, options=case)
        if not self.session.backend.capabilities.times_graphs:
            raise UsageError(
                "bench times graphs, not engines",
                where="--backend",
                got=self.session.backend.name,
                expected="cpu, cuda or openvino",
            )
        self.backend = self.session.backend
        self.backend.profile = profile
        if (costs := self.session.default.draft_costs) is not None:  # drafts are timed, whether or not they pay
            self.session.default.draft_costs = DraftCosts(costs.guess, clock=None)
        manifest = self.session.bundle.manifest
        self.picture = np.random.default_rng(0).integers(0, 256, (*manifest.image.size, 3), np.uint8)
        self.session.default.load(images=case.images > 0)
        self.load_ms = 1000 * (perf_counter() - begin)
        self.first_ms: float | None = None
        self._random = np.random.default_rng(0)
        self._cache: dict[BenchCase, tuple[int, tuple[int, ...]]] = {}

    def run(self, case: BenchCase) -> Sample:
        """Answer once, about pictures and a prompt that were not asked before.

        Raises:
            UsageError: More text than the bundle's capacity, or less than one token of text or answer.
        """
        token_ids, images = self._question(case)
        loaded, before = self.session.default, self.session.default.call_times()
        chooser, inside, begin = GreedyTokens(case.new_tokens, prompt=token_ids), self._inside(), perf_counter()
        if case.images:
            self.session.prepare([self.picture] * case.images, "What is it?")
        prepared = perf_counter()
        job = Job(loaded, Request(tuple(token_ids), images, ()), lambda room: [chooser], keeps=True)
        engine = Engine(answers=1)
        engine.submit(job)
        prefilled, (answer,) = began(engine.step(), job)
        first = perf_counter()
        while not answer.ended:
            engine.step()
        answer.check()
        end, state, plan = perf_counter(), answer.state, loaded.plan
        assert state is not None
        self._cache[case] = state.cache.nbytes, plan.cache_rows(case.images // plan.sharing.images, 0)
        preprocess, ttft, decode, total = (
            1000 * seconds for seconds in (prepared - begin, first - begin, end - first, end - begin)
        )
        vision, prefill = prefilled.vision_ms, prefilled.prefill_ms
        self.first_ms = total if self.first_ms is None else self.first_ms
        speed = 1000 * (case.new_tokens - 1) / decode if case.new_tokens > 1 else float("nan")
        outside = total - 1000 * (self._inside() - inside)
        drafts = answer.drafts or DraftCounts()
        lengths = drafts.tokens_per_step or 1.0, drafts.acceptance_length or 1.0
        rates = math.nan if drafts.acceptance is None else drafts.acceptance, drafts.drafted / max(1, drafts.drafts)
        for _ in range(COMPARED if loaded.speculation else 0):
            loaded.run([chooser.newest], state=state)
        calls = tuple(since(loaded.call_times(), before))
        return Sample(preprocess, vision, prefill, ttft, decode, speed, outside, total, *lengths, *rates, calls)

    def _inside(self) -> float:
        """Seconds spent in graphs so far, those of a model that drafts too."""
        draft = self.session.default.draft_model
        return self.backend.graph_seconds + (draft.backend.graph_seconds if draft else 0.0)

    def facts(self, case: BenchCase) -> CaseFacts:
        """What is known of a case that has run."""
        manifest = self.session.bundle.manifest
        peak, anonymous = peak_bytes(), anonymous_bytes()
        cache, visual = self._cache[case]
        return CaseFacts(
            label=case.label,
            plan=case.plan or manifest.default_plan,
            backend=self.backend.name,
            arithmetic=self.backend.arithmetic,
            load_ms=self.load_ms,
            compile_ms=None if (seconds := self.backend.compile_seconds) is None else 1000 * seconds,
            first_ms=self.first_ms or 0.0,
            peak_mib=None if peak is None else peak / _MIB,
            anonymous_mib=None if anonymous is None else anonymous / _MIB,
            kv_mib=cache / _MIB,
            visual_tokens=visual,
            prefill_flops=flops(manifest, self.session.plan, case.images, case.text),
            decode_bytes=self._weight_bytes() + cache,
        )

    def _question(self, case: BenchCase) -> tuple[list[int], NDArray[np.uint8]]:
        """Random token ids around the images' placeholders, and noise."""
        manifest = self.session.bundle.manifest
        capacity, spec = manifest.prompt.text_capacity, manifest.image
        if min(case.text, case.new_tokens) < 1 or case.images < 0 or case.text + case.new_tokens > capacity:
            raise UsageError(
                "these lengths cannot be timed",
                where="--text, --new-tokens, --images",
                got=f"{case.text} text tokens + {case.new_tokens} new, {case.images} images",
                expected=f"at least 1 and 1, together at most {capacity} (the bundle's text capacity)",
                fix="ask for less, or export with a larger --text-capacity",
            )
        random = self._random
        images = random.integers(0, 256, (case.images, spec.frames, *spec.size, 3), np.uint8)
        ids = random.integers(0, manifest.decoder.vocab, case.text)
        ids[ids == manifest.prompt.image_token_id] = 0
        text, half = [int(token) for token in ids], case.text // 2
        return [*text[:half], *[manifest.prompt.image_token_id] * case.images, *text[half:]], images

    def _weight_bytes(self) -> int:
        """Of one decode step, as they are read: a quantised plan's, and in the arithmetic what was kept high."""
        manifest = self.session.bundle.manifest
        quantised = self.session.bundle.entry(self.session.plan_name).quantised
        narrowed = self.backend.narrow_floats
        wide = 32 if self.backend.arithmetic.rpartition("+")[2] == "fp32" and not narrowed else 16
        if quantised is None and manifest.weights.stored is not None:
            return weight_bytes(manifest, *stored_bits(manifest, wide))
        if quantised is None:
            return weight_bytes(manifest, wide)
        kinds = {name: kind for name, kind in quantised.layers.items() if not _ENCODER.search(name)}
        narrow = find(quantised.precision).weights
        heads = (kind for name, kind in kinds.items() if name.endswith(_HEADS))
        head = narrow if quantised.precision in heads else wide
        bits = {quantised.precision: narrow, WIDE: 8}
        inside = [bits.get(kind, wide) for name, kind in kinds.items() if "layers." in name]
        return weight_bytes(manifest, round(sum(inside) / len(inside)) if inside else wide, head)

    def profiles(self) -> dict[str, str]:
        """End profiling; the files by graph."""
        return self.backend.end_profiling()


def flops(manifest: Manifest, plan: Plan, images: int, text: int) -> int:
    """FLOPs of prefill: every LLM layer (``luvc_export.core.budgets``) and the logits of one token."""
    keep = [images * count for count in plan.keep]
    shape = manifest.decoder
    return sum(llm_flops(plan.llm, shape, keep, text, images)) + 2 * shape.hidden * manifest.head_rows


def stored_bits(manifest: Manifest, wide: int) -> tuple[int, int]:
    """Bits of a weight of the layers, and of the head's, where the checkpoint's codes are computed with.

    FP8 is widened when it is loaded, so it has ``wide`` bits, as what was never quantised.
    """
    stored = manifest.weights.stored
    assert stored is not None
    bits = {name: {"int4": 4, "int8": 8}.get(kind, wide) for name, kind in stored.products.items()}
    inside = [count for name, count in bits.items() if "layers." in name and not _ENCODER.search(name)]
    whole = max(len(inside), _PRODUCTS * manifest.decoder.layers)
    mean = (sum(inside) + wide * (whole - len(inside))) / whole
    return round(mean), bits.get("lm_head.weight", wide)


@dataclass(frozen=True)
class Held:
    """Memory of a process in which all plans have answered, and as many as it keeps are open.

    Args:
        open_plans: Plans whose graphs are loaded at the end.
        shared: Of those, plans that read weights from one copy.
        peak_mib: Most memory the process held, mapped weights included; None if unknown.
        anonymous_mib: What of the memory held at the end no file backs; None if unknown.
    """

    open_plans: int
    shared: int
    peak_mib: float | None
    anonymous_mib: float | None


class OpenedPlans:
    """Opens plans of a bundle one after another and has each answer once; ``Worker`` runs it.

    Args:
        case: Bundle, back-end, threads and arithmetic.
        names: Plans, the one first that the others are variants of.
        most: How many stay open where each packs its weights.

    Raises:
        LuvcError: See ``Session``.
    """

    def __init__(self, case: BenchCase, names: tuple[str, ...], most: int) -> None:
        options = replace(case, plan=names[0], open_plans=most)
        self._session = Session(case.bundle, options=options)
        self._names = names
        for name in names:
            self._session.plans[name].warm_up(min(1, case.images))

    def held(self) -> Held:
        """What the process holds now."""
        backends = [self._session.plans[name].backend for name in self._names]
        loaded = [backend for backend in backends if backend.placement()]
        shared = [one for one in loaded if not one.capabilities.packs_weights]
        peak, anonymous = (None if count is None else count / _MIB for count in (peak_bytes(), anonymous_bytes()))
        return Held(len(loaded), len(shared), peak, anonymous)
