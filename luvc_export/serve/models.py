"""Bundles and plans as models that clients name."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luvc_export.bundle.adapters.peft_folder import Adapter
from luvc_export.bundle.folder import Bundle, load
from luvc_export.core.plan import figures as plan_figures
from luvc_export.core.planning import recipe_of
from luvc_export.errors import Progress, UsageError, did_you_mean
from luvc_export.runtime.call_times import CallTimes, merged
from luvc_export.runtime.session import Session
from luvc_export.runtime.session_options import SessionOptions
from luvc_export.serve.http.api_errors import ApiError, bad_request, explained


@dataclass(eq=False)
class ServedModel:
    """A session under a name.

    Args:
        name: What clients say.
        session: Answers.
        created: Seconds since 1970.
        adapter: Of the session's, which all its answers have; None for the base model.
        parent: Name of the base model of an adapter.
    """

    name: str
    session: Session
    created: int = field(default_factory=lambda: int(time.time()))
    adapter: Adapter | None = None
    parent: str | None = None

    def check_task(self, task: str) -> None:
        """Refuse what its bundle is not made for.

        Raises:
            ApiError: 400, with the path that takes it.
        """
        try:
            self.session.bundle.check_task(task)
        except UsageError as error:
            raise explained(error, "model") from error

    def to_json(self, limits: Mapping[str, int | None] | None = None) -> dict[str, Any]:
        """OpenAI's object, with ours under ``luvc``; ``limits`` are those of the server."""
        session, manifest = self.session, self.session.bundle.manifest
        takes = ["text", "image", *(["video"] if manifest.prompt.video else [])]
        sizes = sorted(session.bundle.sizes_of(session.plan_name))
        plan, quantised = session.plan, manifest.plans[session.plan_name].quantised
        facts = {
            "task": manifest.task,
            "plan": session.plan_name,
            "model_type": manifest.source.model_type,
            "backend": session.backend.name,
            "arithmetic": session.backend.arithmetic,
            "input_modalities": takes,
            "image_sizes": [list(size) for size in sizes],
            "context": manifest.decoder.context,
            "text_capacity": manifest.prompt.text_capacity,
            "limits": dict(limits or {}),
            "recipe": measured(recipe_of(plan, manifest.decoder), quantised.measured if quantised else None),
            "visual_tokens": {"before": plan.units, "encoder": plan.vision_tokens, "layers": list(plan.keep)},
        }
        if self.adapter is not None:
            facts["adapter"] = {"rank": self.adapter.rank, "sha256": self.adapter.sha256}
        shown = {"id": self.name, "object": "model", "created": self.created, "owned_by": "luvc-export", "luvc": facts}
        return shown if self.parent is None else {**shown, "parent": self.parent}

    def runs_on(self) -> dict[str, str]:
        """Plan, back-end and why that one, for a line of the log."""
        session = self.session
        facts = {"model": self.name, "plan": session.plan_name, "backend": session.backend.name}
        why = session.choice or f"backend {session.backend.name}, as --backend says"
        return {**facts, "arithmetic": session.backend.arithmetic, "why": why}


def measured(recipe: str | None, precision: str | None = None) -> dict[str, Any] | None:
    """What a named plan, quantised or not, kept where it was measured, and how much sooner its first token came.

    None for others.
    """
    row = plan_figures.measured_as(recipe, precision)
    if row is None:
        return None
    facts = {"name": row, "measured_on": plan_figures.columns(row)[0][0], "kept": plan_figures.kept(row)}
    return facts | {"first_token": plan_figures.sooner(row), "timed_at": plan_figures.timed_at()}


class Models:
    """Models by name."""

    def __init__(self, served: Sequence[ServedModel]) -> None:
        self.by_name = {model.name: model for model in served}
        self._bases, self._changing = list(served), threading.Lock()

    def find(self, name: str | None) -> ServedModel:
        """The model of that name, or of an adapter's alone where one model has it; without a name the only one.

        Raises:
            ApiError: 404; 400 without a name where there are several.
        """
        if name is None:
            if len(self._bases) > 1:
                known = ", ".join(model.name for model in self._bases)
                raise bad_request(f"you must provide model, one of {known}", "model", "missing_required_parameter")
            return self._bases[0]
        adapted = [model for model in self.by_name.values() if model.name == f"{model.parent}:{name}"]
        if name not in self.by_name and len(adapted) == 1:
            return adapted[0]
        if name not in self.by_name:
            known = did_you_mean(name[:200], self.by_name)
            raise ApiError(404, f"there is no model {name[:200]!r}; {known}", "model", "model_not_found")
        return self.by_name[name]

    def warm_up(self) -> float:
        """Load every model and run it once; seconds."""
        return sum(model.session.warm_up() for model in self._bases)

    def call_times(self) -> dict[str, list[CallTimes]]:
        """What calls of decoders took so far, by model: of every plan that a model has opened, whoever asked for it.

        Clocks belong to plans and go on when a plan is unloaded and loaded again, so no figure ever falls.
        """
        return {
            model.name: merged(one for loaded in model.session.plans.opened for one in loaded.call_times())
            for model in self._bases
        }

    def load_adapter(self, name: str, folder: Path) -> list[str]:
        """Give every model with slots the adapter in ``folder``, as ``MODEL:name``; the new names. All or none.

        Raises:
            UsageError: No model has slots, or see ``Adapters.load``.
        """
        bases = [model for model in self._bases if model.session.bundle.manifest.lora] or self._bases
        loaded: list[ServedModel] = []
        try:
            for base in bases:
                adapter = base.session.adapters.load(name, folder)
                loaded.append(ServedModel(f"{base.name}:{name}", base.session, adapter=adapter, parent=base.name))
        except BaseException:
            for model in loaded:
                model.session.adapters.unload(name)
            raise
        with self._changing:
            self.by_name = {**self.by_name, **{model.name: model for model in loaded}}
        return [model.name for model in loaded]

    def unload_adapter(self, name: str) -> None:
        """Let an adapter go; answers that have begun with it go on.

        Raises:
            UsageError: No model has one of that name.
        """
        having = [base for base in self._bases if name in base.session.adapters]
        for base in having or self._bases:
            base.session.adapters.unload(name)
        gone = {f"{base.name}:{name}" for base in having}
        with self._changing:
            self.by_name = {known: model for known, model in self.by_name.items() if known not in gone}


def open_models(names: Sequence[str], options: SessionOptions, progress: Progress | None = None) -> Models:
    """Open ``FOLDER`` or ``FOLDER#PLAN``, each a model of that name without the folders before it, as ``Session``.

    Adapters of ``options`` are models beside them, see ``Models.load_adapter``.

    Raises:
        UsageError: Two of one name, or see ``Session`` and ``Models.load_adapter``.
    """
    bundles: dict[str, Bundle] = {}
    served: dict[str, ServedModel] = {}
    for spec in names:
        folder, name, plan = split_name(spec)
        if name in served:
            raise UsageError("two models have one name", where=spec, got=name, fix="rename one bundle's folder")
        key = str(folder.absolute())
        if key not in bundles:
            bundles[key] = load(folder, options.verify, progress, task=None)
        session = Session(bundles[key], plan=plan, options=replace(options, lora={}))
        served[name] = ServedModel(name, session)
    models = Models(list(served.values()))
    for name, path in options.lora.items():
        models.load_adapter(name, Path(path))
    return models


def split_name(spec: str) -> tuple[Path, str, str | None]:
    """Folder, name and plan of ``FOLDER`` or ``FOLDER#PLAN``; a folder may have a # in its own name."""
    if Path(spec).is_dir():
        return Path(spec), _name(Path(spec)), None
    folder, mark, plan = spec.rpartition("#")
    path = Path(folder if mark else spec)
    return path, _name(path) + (f"#{plan}" if mark else ""), plan or None


def _name(path: Path) -> str:
    return path.name if path.name not in ("", "..") else path.resolve().name
