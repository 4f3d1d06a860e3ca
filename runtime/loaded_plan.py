"""One plan of a bundle with the back-end that runs it: what answers are made with."""

from __future__ import annotations

import os

from luvc_export.bundle.folder import Bundle, load
from luvc_export.runtime.backend import Backend
from luvc_export.runtime.backends import open_backend
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.prompt.encoder import PromptEncoder


class LoadedPlan:
    """A plan, its graphs as functions, and its tokenizer. Holds no conversation.

    ``encode_images``, ``run`` and ``sample`` are those of ``Graphs``: one graph at a time, for tools that look inside.

    Args:
        bundle: A bundle's folder, or one already read with ``luvc_export.bundle.folder.load``.
        backend: A name (``runtime.backends``), or an object that follows ``runtime.backend.Backend``.
        plan: Name of a plan; None for the bundle's default.
        threads: CPU threads; None for all cores.
        debug: Use the debug decoder, whose prunes are told what to keep (``forced``).

    Raises:
        BundleError: See ``luvc_export.bundle.folder.load``.
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
        self.plan_name = plan or self.bundle.manifest.default_plan
        entry = self.bundle.entry(plan)
        self.plan, self.size = entry.plan, entry.size or self.bundle.manifest.image.size
        if isinstance(backend, str):
            backend = open_backend(backend, self.bundle, plan, threads, debug)
        self.backend = backend
        self.encoder = PromptEncoder(self.bundle)
        graphs = Graphs(self.bundle.manifest, self.plan, backend, debug)
        self.encode_images, self.run, self.sample = graphs.encode_images, graphs.run, graphs.sample
        self.ends = frozenset(self.bundle.manifest.prompt.eos_token_ids)
