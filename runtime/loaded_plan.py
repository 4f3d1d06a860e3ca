"""One plan of a bundle with the back-end that runs it: what answers are made with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from luvc_export.bundle.folder import Bundle, load
from luvc_export.core.options import settled
from luvc_export.errors import MachineError
from luvc_export.runtime import memory
from luvc_export.runtime.call_times import CallTimes, drafting
from luvc_export.runtime.generation.plan_residency import PlanResidency
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.model import Backend
from luvc_export.runtime.prompt.encoder import PromptEncoder
from luvc_export.runtime.prompt.question import OpenedQuestion
from luvc_export.runtime.prompt.request import Request, make_request, token_limit
from luvc_export.runtime.session_options import SessionOptions
from luvc_export.runtime.state import VisualFeatures, join_features

if TYPE_CHECKING:
    from luvc_export.runtime.generation.guided import Grammars
    from luvc_export.runtime.speculation.draft_costs import DraftCosts
    from luvc_export.runtime.speculation.request import Speculation


_SHORT = (memory.SHORT, memory.SHORT_ON_GPU)


class LoadedPlan:
    """A plan, its graphs as functions, and its tokenizer. Holds no conversation.

    ``encode_images`` and ``run`` are those of ``Graphs``: one graph at a time, for tools that look inside.

    Args:
        bundle: A bundle's folder, or one already read with ``luvc_export.bundle.folder.load``.
        backend: A name (``runtime.backends``), or an object that derives from ``runtime.model.Backend``.
        plan: Name of a plan; None for the bundle's default.
        options: Threads, arithmetic and how several tokens a step are drafted; None for what is usual.
        debug: Use the debug decoder, whose prunes are told what to keep (``forced``).
        **settings: Fields of ``SessionOptions`` by name, which go before those of ``options``.

    Raises:
        BundleError: See ``luvc_export.bundle.folder.load``.
        UsageError: Unknown back-end or plan, or a bundle without weights.
        MachineError: The machine lacks the back-end or memory (memory is checked when the graphs load), or the back-end
            takes one token a step.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        backend: str | Backend = "cpu",
        plan: str | None = None,
        options: SessionOptions | None = None,
        debug: bool = False,
        **settings: Any,
    ) -> None:
        options = settled(SessionOptions, options, settings, "LoadedPlan")
        threads, arithmetic, speculate = options.threads, options.arithmetic, options.speculate
        self.speculation: Speculation | None = None
        if speculate is not None:
            from luvc_export.runtime.speculation.request import Speculation, check_backend

            self.speculation = Speculation.parse(speculate)
        self.bundle = bundle if isinstance(bundle, Bundle) else load(bundle, options.verify, task=None)
        self.plan_name = plan or self.bundle.manifest.default_plan
        entry = self.bundle.entry(plan)
        self.plan, self.size = entry.plan, entry.size
        #: What ``auto`` took, and why nothing before it; None where a back-end was named.
        self.choice: str | None = None
        self._arithmetic, self._debug = arithmetic, debug
        if backend == "auto":
            from luvc_export.runtime.backend_choice import choose

            choice = choose(self.bundle, plan, arithmetic, debug)
            backend, self.choice = choice.name, choice.line
        if isinstance(backend, str):
            from luvc_export.runtime.backends import open_backend  # which imports the engines

            unverified = options.allow_unverified and self.choice is None  # ``auto`` takes nothing unverified
            of_this = partial(open_backend, bundle=self.bundle, plan=plan, threads=threads, debug=debug)
            self._named = partial(of_this, allow_unverified=unverified)
            backend = self._named(backend, arithmetic=arithmetic)
        self._answered = False
        #: What drafts tokens for this one, where that is a smaller model.
        self.draft_model: LoadedPlan | None = None
        if self.speculation is not None:
            check_backend(backend, self.bundle.manifest.decoder)
            if self.speculation.bundle is not None:
                self.draft_model = self._smaller(self.speculation.bundle, backend.name, threads)
        #: Shared by plans that are opened beside each other.
        self.residency = PlanResidency()
        self.encoder = PromptEncoder(self.bundle, options.chat_template)
        self.ends = frozenset(self.bundle.manifest.prompt.eos_token_ids)
        self._take(backend)

    def _take(self, backend: Backend) -> None:
        """Run on ``backend`` from here on."""
        self.backend = backend
        self.graphs = graphs = Graphs(self.bundle.manifest, self.plan, backend, self._debug)
        self.encode_images, self.run = graphs.encode_images, graphs.run
        for known in ("_in_turn", "fingerprint"):
            self.__dict__.pop(known, None)

    def _smaller(self, named: str, backend: str, threads: int | None) -> LoadedPlan:
        """The model that drafts, on the same engine.

        Raises:
            UsageError: It does not read what this one reads.
        """
        from luvc_export.runtime.speculation.request import check_fits

        folder, _, plan = (named, "", "") if Path(named).is_dir() else named.rpartition("#")
        bundle = load(folder or named)
        check_fits(bundle, plan or None, self.bundle, self.plan_name)
        return LoadedPlan(bundle, backend, plan or None, threads=threads)

    @cached_property
    def fingerprint(self) -> bytes:
        """A hash of all that decides what graphs make of pictures and tokens: bundle, plan, back-end, arithmetic."""
        manifest = self.bundle.manifest
        facts = [self.plan_name, self.plan.to_json(), self.size, self.backend.name, self.backend.arithmetic]
        facts += [manifest.source.model_type, {name: file.sha256 for name, file in sorted(manifest.files.items())}]
        facts.append({name: repr(place) for name, place in sorted(manifest.weights.tensors.items())})
        return hashlib.sha256(json.dumps(facts, default=repr).encode()).digest()

    @cached_property
    def shares_features(self) -> bool:
        """Whether the smaller model that drafts takes the pictures as this one's encoder saw them: its own is equal.

        Raises what ``same_graph`` raises.
        """
        draft = self.draft_model
        if draft is None:
            return False
        from luvc_export.runtime.speculation.same_encoder import same_graph

        own, other = self.bundle.entry(self.plan_name), draft.bundle.entry(draft.plan_name)
        return same_graph(self.bundle, own.vision, draft.bundle, other.vision)

    @cached_property
    def draft_costs(self) -> DraftCosts | None:
        """What the smaller model that drafts costs by this one, and brought before; None without one."""
        draft = self.draft_model
        if draft is None:
            return None
        from luvc_export.runtime.speculation.draft_costs import DraftCosts, relative_cost

        return DraftCosts(relative_cost(draft.bundle, draft.plan_name, self.bundle, self.plan_name))

    def call_times(self) -> list[CallTimes]:
        """What calls of the decoder took so far, by part and engine; those of a smaller model that drafts too."""
        draft = self.draft_model
        return self.graphs.clock.read() + ([] if draft is None else drafting(draft.graphs.clock.read()))

    def draft_features(self, seen: VisualFeatures, before: VisualFeatures | None = None) -> VisualFeatures | None:
        """Features for the smaller model, in arrays that no later call writes to; None where it has its own encoder.

        Args:
            seen: Of images that were encoded just now.
            before: Lent for those of earlier turns.
        """
        if not self.shares_features:
            return None
        own = replace(seen, embeds=np.array(seen.embeds), positions=np.array(seen.positions))
        return own if before is None else join_features([before, own])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the plan, and of how the back-end computes on this machine; one line each."""
        from luvc_export.core.plan import figures as plan_figures

        merging = plan_figures.merging_note(self.plan)
        part = self.bundle.manifest.vocabulary
        return ((merging,) if merging else ()) + ((str(part),) if part else ()) + self.backend.notes

    @cached_property
    def grammars(self) -> Grammars:
        """What guides answers by a schema or pattern."""
        from luvc_export.runtime.generation.guided import Grammars

        return Grammars(self.encoder.tokenizer, self.bundle.manifest.decoder.vocab, self.ends)

    def load(self, images: bool = True, busy: Collection[LoadedPlan] = ()) -> None:
        """Load what is not loaded yet; plans beside it that take turns with it may be unloaded, those of ``busy`` last.

        Others of the session are unloaded where there is not enough memory for this one, but those of ``busy``.

        Args:
            images: Also the vision graph.
            busy: Plans that are in the middle of an answer.

        Raises:
            MachineError: See the class.
            BundleError: See ``Backend.load``.
        """
        try:
            self._load(images, busy)
        except MachineError as error:
            if error.what in _SHORT or self.choice is None or self._answered or self.draft_model is not None:
                raise
            self._give_way(error, images, busy)
        self._answered = True
        self.residency.answers(self.backend)
        if self.draft_model is not None:
            self.draft_model.load(images=images and not self.shares_features)

    def _load(self, images: bool, busy: Collection[LoadedPlan]) -> None:
        if (backend := self._in_turn) is not None:
            self.residency.load(backend, [one.backend for one in busy])
        while True:
            try:
                self.backend.load(images=images)
                return
            except MachineError as error:
                kept = [one.backend for one in busy]
                if error.what not in _SHORT or not self.residency.make_room(self.backend, kept):
                    raise

    def _give_way(self, refused: MachineError, images: bool, busy: Collection[LoadedPlan]) -> None:
        """Take the first back-end behind the one that ``auto`` took that loads these graphs.

        Raises:
            MachineError: ``refused``, where none does.
        """
        from luvc_export.runtime.backend_choice import behind

        first, passed = self.backend, [f"{self.backend.name}: {refused.what}"]
        for name, arithmetic in behind(first, self._arithmetic):
            try:
                self._take(self._named(name, arithmetic=arithmetic))
                self._load(images, busy)
            except MachineError as error:
                passed.append(f"{name}: {error.what}")
                continue
            self.choice = f"backend {self.backend.name} ({'; '.join(passed)})"
            return
        self._take(first)
        raise refused

    def waits_for(self, busy: Collection[LoadedPlan]) -> bool:
        """Whether ``load`` would unload one of ``busy``."""
        backend = self._in_turn
        return backend is not None and not self.residency.can_load(backend, [one.backend for one in busy])

    @property
    def is_resident(self) -> bool:
        """Whether ``load`` unloads nothing: it is loaded and keeps its turn, or takes no turns."""
        backend = self._in_turn
        return backend is None or self.residency.is_resident(backend)

    @cached_property
    def _in_turn(self) -> Backend | None:
        """The back-end, where it takes turns with weights of its own: of a plan with buckets, a bucket, or of any."""
        backend = self.backend
        if not backend.capabilities.packs_weights:
            return None
        buckets = self.plan.encoder.takes_units or self.bundle.buckets_of(self.plan_name)
        return backend if self.residency.everywhere or (buckets and not backend.capabilities.keeps_buckets) else None

    def request(self, asked: OpenedQuestion) -> Request:
        """A question with opened media made ready for this plan: see ``make_request``.

        Raises what ``make_request`` raises.
        """
        request = make_request(asked, self.encoder, self.bundle.manifest, self.size, self.plan)
        return replace(request, plan=self.plan_name)

    def token_limit(self, request: Request, wanted: int | None = None) -> int:
        """How many tokens may be generated after ``request``, see ``runtime.prompt.request.token_limit``.

        Raises:
            UsageError: The prompt is too long, or has no text.
        """
        return token_limit(self.bundle.manifest, self.plan, request, wanted)

    def warm_up(self, images: int = 1) -> float:
        """Load everything and answer once about nothing: what is made at the first call is made now.

        Args:
            images: Pictures of that question; a group that shares a budget is filled up.

        Returns:
            Seconds it took.

        Raises:
            MachineError: See the class.
        """
        started = perf_counter()
        self.load(images=images > 0)
        manifest, group = self.bundle.manifest, self.plan.sharing.images
        count = -(-images // group) * group
        picture = np.zeros((count, manifest.image.frames, *self.size, 3), np.uint8)
        placeholder = manifest.prompt.image_token_id
        token = int(placeholder == 0)
        step = self.run([*[placeholder] * count, token], self.encode_images(picture))
        if manifest.does.decodes:
            self.run([token], state=step.state)
        return perf_counter() - started
