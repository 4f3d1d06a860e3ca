"""A bundle as a model of lmms-eval, to run TextVQA, ChartQA, POPE, MMStar and its other tasks on it.

lmms-eval is an optional package with many requirements of its own; nothing of it is imported before ``model_class`` is
asked for. It finds the model by the entry point ``lmms_eval.models``:

    python -m lmms_eval --model luvc_export --model_args bundle=qwen-bundle,plan=thirds --tasks textvqa_val
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.session import Session

#: New tokens where a task does not say, as most of lmms-eval's own models have it.
DEFAULT_NEW_TOKENS = 1024


class BundleModel:
    """What lmms-eval asks of a model, on a bundle's session; mixed with its base class by ``model_class``.

    Args:
        bundle: Folder of the bundle.
        plan: One of its plans; None for the default.
        backend: ``cpu`` or ``cuda``.
        threads: CPU threads.
        batch_size: Accepted, since lmms-eval passes it; questions are answered one at a time.
        device: Accepted for the same reason; ``backend`` decides.
    """

    task_dict: dict[str, Any]
    cache_hook: Any

    def __init__(
        self,
        bundle: str,
        plan: str | None = None,
        backend: str = "cpu",
        threads: int | str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.session = Session(bundle, backend or "cpu", plan, int(threads) if threads is not None else None)
        self.batch_size = 1

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer requests whose ``args`` are (context, generation_kwargs, doc_to_visual, doc_id, task, split).

        Raises:
            UsageError: A visual is a video; or see ``Session.generate``.
        """
        answers = []
        for request in requests:
            context, kwargs, doc_to_visual, doc_id, task, split = request.args
            pictures = list(doc_to_visual(self.task_dict[task][split][doc_id]) or [])
            answer = self._answer(context, pictures, kwargs)
            answers.append(answer)
            self.cache_hook.add_partial("generate_until", (context, kwargs), answer)
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered: the bundled tasks that matter here generate.

        Raises:
            UsageError: Always.
        """
        raise UsageError("a bundle answers by generating", where="loglikelihood", fix="choose a generate_until task")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered.

        Raises:
            UsageError: Always.
        """
        raise UsageError("rounds are not offered", where="generate_until_multi_round", fix="choose another task")

    def _answer(self, context: str, pictures: list[Any], kwargs: dict[str, Any]) -> str:
        if any(isinstance(picture, str) and picture.endswith((".mp4", ".avi", ".mov")) for picture in pictures):
            raise UsageError("a bundle sees pictures, not videos", where="generate_until", got=pictures)
        until = kwargs.get("until") or []
        stop = tuple(item for item in ([until] if isinstance(until, str) else until) if item.strip())
        sampling: dict[str, Any] = {"stop": stop, "greedy": True}
        if kwargs.get("do_sample") and float(kwargs.get("temperature") or 0) > 0:
            sampling["greedy"] = False
            sampling["temperature"] = float(kwargs["temperature"])
            sampling["top_p"] = kwargs.get("top_p") or None
        sampling = {name: value for name, value in sampling.items() if value is not None}
        prompt = context.replace("<image>", "").strip()
        request = self.session.prepare(pictures, prompt)
        room = self.session.token_limit(request)
        wanted = min(int(kwargs.get("max_new_tokens") or DEFAULT_NEW_TOKENS), room)
        return self.session.answer(request, max_new_tokens=wanted, **sampling).text


def model_class() -> type:
    """The class for lmms-eval: ``BundleModel`` on its base class.

    Raises:
        MachineError: lmms-eval is not installed.
    """
    try:
        base = import_module("lmms_eval.api.model").lmms
    except ImportError as error:
        raise MachineError(
            "lmms-eval is not installed", got=str(error), fix="pip install lmms-eval, in an environment of its own"
        ) from error
    return type("LuvcExport", (BundleModel, base), {})


def manifest() -> Any:
    """What the entry point ``lmms_eval.models`` gives lmms-eval: the model's name and where its class is."""
    registry = import_module("lmms_eval.models.registry_v2")
    return registry.ModelManifest(model_id="luvc_export", simple_class_path=f"{__name__}.LuvcExport")


def __getattr__(name: str) -> Any:
    """Make ``LuvcExport`` when lmms-eval asks for it."""
    if name == "LuvcExport":
        return model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
