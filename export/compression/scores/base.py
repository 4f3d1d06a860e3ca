"""What a score is: a class with one method, and what that method may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.errors import PlanError, did_you_mean
from luvc_export.export.compression.scores._settings import ScoreSetting as ScoreSetting


@dataclass(frozen=True)
class LayerContext:
    """The model around a prune; what is a function is computed only when a score asks for it.

    Attributes:
        hidden: [B, G, N, D], visual hidden states that enter the layer.
        before: [B, G, N, D], those that entered the layer before; None before the first layer.
        attention: Attention of the last text token to the visual tokens, mean over heads, fp32 [B, G, N]: in this
            layer (False) or in the layer before (True).
        keys: This layer's keys of the visual tokens before rotation [B, G, N, Hkv * Dh].
    """

    hidden: Tensor
    before: Tensor | None
    attention: Callable[[bool], Tensor]
    keys: Callable[[], Tensor]


@dataclass(frozen=True)
class ScoreInput:
    """What a score may look at.

    Attributes:
        normed: fp32 [B, G, N, D], visual hidden states after the layer's own input norm.
        basis: What the score's ``constant`` gave for this prune: of the spectrum scores an fp32 low-pass basis, [N, m]
            (token axis) or [D, m] (channel axis).
        axis: ``token`` or ``channel``.
        keep: K, how many will stay.
        context: More of the model.
        grid: (rows, columns) of each of ``images`` pictures, row-major; None once tokens were pruned.
        images: Pictures that share the budget.
        padding: Which tokens show padding alone, bool [B, G, N]; None where nothing is told.
        settings: The score's own, by name.
    """

    normed: Tensor
    basis: Tensor | None
    axis: str
    keep: int = 0
    context: LayerContext | None = None
    grid: tuple[int, int] | None = None
    images: int = 1
    padding: Callable[[], Tensor] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class Score(ABC):
    """What a prune ranks visual tokens by. The K tokens of highest score stay, in their order.

    A subclass has the public names of this class and no others, so that a misspelt one is an error and not a default;
    helpers begin with an underscore or stand outside the class.

    Attributes:
        reads_text: What a prune keeps depends on the question. The others keep the same tokens of a picture for all.
        needs_layer_before: It compares two layers, so it cannot prune before the first.
        reads_spectrum: It filters: ``LlmPlan.axis`` and ``spectrum`` matter to it.
        needs_positions: It reads ``ScoreInput.grid`` and cannot do without: a plan may choose once, from a whole grid.
        settings: What it lets a user choose, by name; ``ScoreInput.settings`` holds the values, the defaults filled in.
    """

    reads_text: bool = False
    needs_layer_before: bool = False
    reads_spectrum: bool = False
    needs_positions: bool = False
    settings: Mapping[str, ScoreSetting[Any]] = MappingProxyType({})

    @abstractmethod
    def score(self, given: ScoreInput) -> Tensor:
        """Rank of every visual token, fp32 [B, G, N]: what is largest stays. Traced: no value may decide a shape."""

    def constant(self, plan: Plan, layer: int, tokens: int, channels: int) -> Tensor | None:
        """What the score reads of the plan alone at the prune before ``layer``, a buffer of the decoder.

        Args:
            plan: Every switch of the plan; the score's settings are ``plan.llm.method["NAME"]``.
            layer: LLM layer; ``plan.keep[layer]`` of ``tokens`` stay.
            tokens: N, visual tokens of a picture that reach the prune.
            channels: D.
        """
        return None

    def problems(self, plan: Plan) -> list[str]:
        """What of a plan its settings contradict, one line each."""
        return []

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse public names that ``Score`` has not, and flags that are no bool.

        Raises:
            PlanError: Names the attribute and the one it was meant for.
        """
        super().__init_subclass__(**options)
        _check(cls.__qualname__, cls, (name for name in dir(cls) if not name.startswith("_")))


def check(name: str, score: Score) -> None:
    """``Score``'s rule for what an instance sets itself. Raises what ``Score.__init_subclass__`` raises."""
    _check(name, score, (each for each in vars(score) if not each.startswith("_")))


def _check(where: str, owner: object, names: Iterable[str]) -> None:
    known = sorted(name for name in vars(Score) if not name.startswith("_"))
    for name in names:
        if name not in known:
            raise PlanError(
                "a score has an attribute that no score has",
                where=f"{where}.{name}",
                expected=did_you_mean(name, known),
                fix="mend the name, or begin a helper's with an underscore",
            )
        value, wanted = getattr(owner, name), getattr(Score, name)
        if isinstance(wanted, bool) and not isinstance(value, bool):
            raise PlanError("a score's flag is no bool", where=f"{where}.{name}", got=repr(value))
        if callable(wanted) and not callable(value):
            raise PlanError("a score's method cannot be called", where=f"{where}.{name}", got=repr(value))
        if name == "settings" and not _are_settings(value):
            expected = "a mapping of names to ScoreSetting"
            raise PlanError(
                "a score's settings are not declared", where=f"{where}.{name}", got=repr(value)[:80], expected=expected
            )


def _are_settings(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(
        isinstance(name, str) and name.isidentifier() and isinstance(each, ScoreSetting) for name, each in value.items()
    )
