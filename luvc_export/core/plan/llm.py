"""What a plan says of the LLM: how many visual tokens enter each layer, and what a prune ranks them by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from luvc_export.core.files import json_records
from luvc_export.errors import PlanError

LastLayer = Literal["drop", "kv_only", "full"]
Axis = Literal["token", "channel"]
Spectrum = Literal["1d", "2d"]
Reducer = Literal["prune", "merge"]


Setting = bool | int | float | str

#: TensorRT and TensorRT-RTX refuse TopK above this K (NvInfer.h, ITopKLayer: "K <= 3840"; tried on RTX 1.7.1).
TENSORRT_TOPK_LIMIT = 3840
#: Settings of a method; letters of a text among them.
_MOST_SETTINGS, _LONGEST = 64, 4096


@dataclass(frozen=True)
class Method(json_records.JsonRecord):
    """How the tokens that a prune keeps are chosen.

    ``luvc_export.export.compression.scores.method`` makes one: it checks settings against those that the score declares
    and copies the score's facts, so that what runs a plan needs no list of scores. A plan file written by hand may
    leave facts out: until an export writes them, the cautious values hold.

    Args:
        name: Name of the score; empty in plans that are for budgets and costs alone, which no graph is made of.
        settings: Names and values, sorted by name.
        reads_text: What is kept of a picture depends on the question.
        reads_spectrum: It filters the span (``LlmPlan.axis`` and ``spectrum``).
        needs_positions: It reads where tokens stand on the grid, so it chooses once, from all of it.
    """

    name: str = ""
    settings: tuple[tuple[str, Setting], ...] = ()
    reads_text: bool = True
    reads_spectrum: bool = False
    needs_positions: bool = False

    def __getitem__(self, setting: str) -> Any:
        """Value of a setting.

        Raises:
            KeyError: The method has none of that name.
        """
        return dict(self.settings)[setting]

    def problems(self) -> list[str]:
        """What is wrong, one line each; whether the score knows these settings is the score's to say."""
        lines = json_records.wrong_choices(self)
        if not isinstance(self.name, str):
            lines.append(f"name: got {self.name!r}, expected a score's name")
        if [name for name, _ in self.settings] != sorted({name for name, _ in self.settings}):
            lines.append("settings: expected names in order, each once")
        for name, value in self.settings:
            if not isinstance(value, Setting) or (isinstance(value, float) and not math.isfinite(value)):
                lines.append(f"settings.{name}: got {value!r}, expected a number, a word, true or false")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain data: facts beside ``settings`` as an object."""
        facts = {name: getattr(self, name) for name in ("reads_text", "reads_spectrum", "needs_positions")}
        return {"name": self.name, "settings": dict(self.settings), **facts}

    @classmethod
    def from_json(cls, data: object, where: str) -> Method:
        """Build from ``to_json`` data; only ``name`` must be there.

        Raises:
            PlanError: Fields are unknown, or of another type.
        """
        values = json_records.fields_of(cls, data, where)
        settings = values.get("settings", {})
        if not isinstance(settings, dict) or len(settings) > _MOST_SETTINGS:
            raise PlanError("a method's settings are a JSON object", where=f"{where}.settings", got=repr(settings)[:40])
        for name, value in settings.items():
            if not isinstance(value, Setting) or (isinstance(value, str) and len(value) > _LONGEST):
                raise PlanError("no value of a setting", where=f"{where}.settings.{name}", got=repr(value)[:40])
            if isinstance(value, int | float) and not abs(value) <= json_records.MOST:
                raise PlanError("the number is too large", where=f"{where}.settings.{name}", got=repr(value)[:40])
        return cls(**{**values, "settings": tuple(sorted(settings.items()))})


@dataclass(frozen=True)
class LlmPlan(json_records.JsonRecord):
    """Budgets of the visual span [B, groups, N, D] layer by layer, and how a prune chooses.

    Args:
        keep: Visual tokens per image (of all images that share a budget together) that enter each LLM layer; one int
            per layer, never growing.
        method: What a prune ranks tokens by.
        last_layer: ``drop`` lets no visual token into the last layer (``keep[-1] == 0``); ``kv_only`` gives the last
            layer their keys and values but computes nothing else for them (exact for the logits); ``full`` is the
            uncompressed layer.
        kv_only: LLM layers, ascending, in which visual tokens give keys and values and nothing else: they leave the
            layer as they entered it (ShortV), but for what ``sampled`` and ``turns`` say. The last layer is not among
            them, see ``last_layer``.
        sampled: So many visual tokens of each group, at equal distances, go through layers ``kv_only``, and all move by
            the mean of what these layers add to those that are no padding (ours); of 0 they leave as they entered.
            Older plans have it; no option asks for it now.
        turns: Of the visual tokens of each group every so many-th goes through a layer ``kv_only``, in turns from layer
            to layer, and the others move as those do that are most like them (``export.llm.working``, ours); of 0 all
            leave as they entered.
        reducer: How the visual span shrinks: ``prune`` keeps the best tokens, ``merge`` merges neighbours on the span's
            grid (ours): budgets must then be rectangles, see ``Plan.stage_grids``.
        axis: Methods that read the spectrum filter along ``token`` or ``channel``.
        spectrum: Theirs is ``1d`` over the span, or separable ``2d`` while the grid is intact.
        aggregate: One row of every budget that a prune leaves is the mean of all rows dropped so far, by size; the
            others are chosen. The budget of a layer counts that row. Older plans have it; no option asks for it now.
        apart: What the first prune keeps is chosen before the first layer, and until that prune the visual tokens that
            it will keep and those that it will drop do not see each other (ParVTS); text sees both.
        shared: A fact of the model: its last layers that read the caches of earlier ones. No visual token is computed
            in them, so their budgets are 0: what they see of a picture is what those earlier layers kept.
    """

    written_where_used = frozenset({"aggregate", "shared", "apart", "sampled", "turns"})

    keep: tuple[int, ...]
    method: Method = Method()
    last_layer: LastLayer = "drop"
    kv_only: tuple[int, ...] = ()
    reducer: Reducer = "prune"
    axis: Axis = "token"
    spectrum: Spectrum = "2d"
    aggregate: bool = False
    shared: int = 0
    apart: bool = False
    sampled: int = 0
    turns: int = 0

    @property
    def cached(self) -> int:
        """Layers that have a cache: all but the last ``shared``."""
        return self.layers - self.shared

    @property
    def layers(self) -> int:
        """Number of LLM layers."""
        return len(self.keep)

    @property
    def frozen(self) -> frozenset[int]:
        """Layers that compute nothing but keys and values for all visual tokens, ``kv_only`` ones the rest for some."""
        return frozenset((*self.kv_only, *([self.layers - 1] if self.last_layer == "kv_only" else ())))

    @property
    def by_score_alone(self) -> bool:
        """What a prune keeps is what scored best: no aggregate row, no sides apart, nothing that is rare."""
        return not any(getattr(self, name) for name in self.written_where_used - {"shared", "sampled", "turns"})

    @property
    def reads_grid(self) -> str:
        """What of a prune needs to know where tokens stand; empty where nothing does."""
        if self.reducer == "merge":
            return "llm.reducer: 'merge'"
        if self.method.reads_spectrum and self.axis == "token" and self.spectrum == "2d":
            return "llm.spectrum: '2d'"
        return f"llm.method: {self.method.name!r}" if self.method.needs_positions else ""

    def turn(self, layer: int) -> int:
        """The first of the tokens that work in a layer ``kv_only``: each next one of these has the next turn."""
        return (self.kv_only[0] + self.kv_only.index(layer)) % self.turns

    def unchosen(self) -> LlmPlan:
        """The same budgets without a word on how tokens are chosen."""
        same = {name: getattr(self, name) for name in ("last_layer", "kv_only", "shared", "sampled", "turns")}
        return LlmPlan(self.keep, **same)

    def problems(self) -> list[str]:
        """What is wrong, one line each."""
        lines = [*json_records.wrong_choices(self), *json_records.below("method", self.method.problems())]
        if not self.keep:
            return [*lines, "keep: empty, expected one budget per LLM layer"]
        for layer, count in enumerate(self.keep[1:], 1):
            if count > self.keep[layer - 1]:
                before = self.keep[layer - 1]
                lines.append(f"keep[{layer}]: grows from {before} to {count}; pruned tokens do not return")
        if self.last_layer == "drop" and self.keep[-1]:
            where, count = f"keep[{self.layers - 1}]", self.keep[-1]
            lines.append(f"{where}: got {count}, last_layer 'drop' lets none in: use 0 or kv_only")
        if not 0 <= self.shared < len(self.keep):
            return [*lines, f"shared: got {self.shared}, expected fewer than the {len(self.keep)} layers"]
        for layer in range(self.cached, self.layers):
            if self.keep[layer]:
                lines.append(
                    f"keep[{layer}]: got {self.keep[layer]}; layers from {self.cached} on read the caches of others"
                    " and compute no visual token: use 0"
                )
        if self.aggregate is True and self.reducer == "merge":
            lines.append("aggregate: merging in the LLM drops nothing that a row could stand for")
        for name, least in (("sampled", 1), ("turns", 2)):
            if (count := getattr(self, name)) and (count < least or not self.kv_only or self.aggregate):
                some = f"{least} or more with layers kv_only and without an aggregate"
                lines.append(f"{name}: got {count}, expected 0, or {some}")
        if self.sampled and self.turns:
            lines.append("turns: tokens that are sampled work in every layer: say one of the two")
        if self.apart is True and (self.reducer == "merge" or self.aggregate or self.sampled or self.turns):
            lines.append("apart: sides of tokens kept and dropped; merging, aggregates, samples, turns have none")
        return [*lines, *_kv_only_problems(self.keep, self.kv_only, max(self.sampled, self.turns))]


def _kv_only_problems(keep: Sequence[int], kv_only: Sequence[int], some: int) -> list[str]:
    lines, layers = [], len(keep)
    for index, layer in enumerate(kv_only):
        where = f"kv_only[{index}]"
        if not 0 <= layer < layers:
            lines.append(f"{where}: got layer {layer}, expected 0 to {layers - 2}: there are {layers} layers")
        elif layer == layers - 1:
            lines.append(f"{where}: layer {layer} is the last one, which last_layer 'kv_only' says")
        elif not keep[layer]:
            lines.append(f"{where}: no visual token enters layer {layer}: leave it out")
        elif keep[layer] <= some:
            lines.append(f"{where}: {keep[layer]} tokens of layer {layer}, expected more than {some}: leave it out")
    if list(kv_only) != sorted(set(kv_only)):
        lines.append(f"kv_only: got {list(kv_only)}, expected layers in ascending order, each once")
    return lines
