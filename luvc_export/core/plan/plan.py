"""A plan: its parts, and what follows from several of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luvc_export.core.files import json_records
from luvc_export.core.plan import merging, schema_1
from luvc_export.core.plan.encoder import EncoderPlan
from luvc_export.core.plan.llm import TENSORRT_TOPK_LIMIT, LlmPlan
from luvc_export.core.plan.sharing import Sharing
from luvc_export.errors import PlanError

SCHEMA_VERSION = 2

#: Bytes of the largest plan file.
MAX_PLAN_BYTES = 2**22

_PARTS = {"encoder": EncoderPlan, "llm": LlmPlan, "sharing": Sharing}


@dataclass(frozen=True)
class Plan(json_records.JsonRecord):
    """Everything about compression that is fixed at export.

    Args:
        encoder: What merges or leaves inside the encoder.
        llm: Budgets of the LLM's layers, and how tokens are chosen.
        sharing: Images that share a budget.
        schedule: Name of the schedule that made the budgets, for people.
        topk_limit: Largest K the targets of this plan accept, None for no limit.

    Raises:
        PlanError: Parts are wrong or do not fit each other; lists every problem by its place in the JSON.
    """

    encoder: EncoderPlan
    llm: LlmPlan
    sharing: Sharing = field(default_factory=Sharing)
    schedule: str = "list"
    topk_limit: int | None = TENSORRT_TOPK_LIMIT

    def __post_init__(self) -> None:
        encoder, sharing = self.encoder.problems(self.topk_limit), self.sharing.problems()
        llm = self.llm.problems()
        problems = [
            *json_records.below("encoder", encoder),
            *json_records.below("llm", llm),
            *json_records.below("sharing", sharing),
            *self._sharing_problems(),
        ]
        if not encoder and self.sharing.images >= 1 and self.llm.keep:
            problems += [*self._parts_problems(), *self._budget_problems(not llm)]
        if problems:
            raise PlanError("the plan does not fit:\n" + "\n".join(f"  - {problem}" for problem in problems))

    @property
    def grid(self) -> tuple[int, int]:
        """Units (rows, columns) of one image before merging."""
        return self.encoder.grid

    @property
    def units(self) -> int:
        """Visual tokens per image before compression."""
        return self.encoder.units

    @property
    def merged_grid(self) -> tuple[int, int]:
        """Units (rows, columns) after every merge pass."""
        return self.encoder.merged_grid

    @property
    def vision_tokens(self) -> int:
        """N_0: visual tokens per image that leave the encoder."""
        return self.encoder.tokens

    @property
    def keep(self) -> tuple[int, ...]:
        """Visual tokens per group that enter each LLM layer."""
        return self.llm.keep

    @property
    def layers(self) -> int:
        """Number of LLM layers."""
        return self.llm.layers

    @property
    def cached(self) -> int:
        """Number of LLM layers that have a cache, the first ones."""
        return self.llm.cached

    @property
    def span_tokens(self) -> int:
        """Visual tokens that share a budget when they leave the encoder: N_0 of every image of a group."""
        return self.sharing.images * self.encoder.tokens

    @property
    def whole_span(self) -> int:
        """Visual tokens that would share a budget without compression."""
        return self.sharing.images * self.encoder.units

    def cache_rows(self, groups: int, text: int) -> tuple[int, ...]:
        """Rows of each KV cache, of LLM layers that have one: what the layer keeps of every group, then the text.

        Every buffer, profile, mask and prediction of a cache follows from this.

        Args:
            groups: What shares a budget: single images, or with ``Sharing`` so many images each.
            text: Text tokens, prompt and answer.
        """
        return tuple(groups * keep + text for keep in self.llm.keep[: self.cached])

    @property
    def prunes(self) -> tuple[tuple[int, int, int], ...]:
        """Every place where the visual span shrinks, as (layer, tokens before, tokens kept)."""
        before = (self.span_tokens, *self.keep)
        return tuple((layer, n, k) for layer, (n, k) in enumerate(zip(before, self.keep, strict=False)) if k < n)

    @property
    def prunes_tokens(self) -> bool:
        """Whether a prune keeps some and drops some, so that it must choose."""
        return any(keep for _, _, keep in self.prunes)

    @property
    def chooses(self) -> tuple[tuple[int, int, int], ...]:
        """Every prune that ranks tokens, as (layer, tokens ranked, tokens chosen): rows without their aggregates.

        Where the LLM merges, none does.
        """
        if self.llm.reducer == "merge":
            return ()
        ranks, mean = [prune for prune in self.prunes if prune[2]], int(self.llm.aggregate)
        return tuple((layer, n - mean * (at > 0), k - mean) for at, (layer, n, k) in enumerate(ranks))

    @property
    def apart(self) -> int | None:
        """The layer before which the first prune drops what ``LlmPlan.apart`` kept apart; None where nothing is."""
        return self.chooses[0][0] if self.llm.apart and self.chooses else None

    @property
    def aggregated_layers(self) -> tuple[int, ...]:
        """LLM layers into which a row of every group goes that is the mean of those dropped."""
        if not self.llm.aggregate:
            return ()
        return tuple(layer for layer, keep in enumerate(self.keep) if 0 < keep < self.span_tokens)

    @property
    def decoder_padding(self) -> bool:
        """Whether the decoder graph asks which visual tokens are padding: it does where it chooses among them."""
        return self.encoder.padding and self.prunes_tokens

    @property
    def reads_text(self) -> bool:
        """What is kept of a picture depends on the question, so that nobody else's answer can start from it."""
        return self.llm.method.reads_text and self.prunes_tokens

    @property
    def stage_grids(self) -> dict[int, tuple[int, int]]:
        """With ``reducer`` ``merge``: grid (rows, columns) of the visual span from each shrinking layer on."""
        grids: dict[int, tuple[int, int]] = {}
        grid: tuple[int, int] | None = self.merged_grid
        for layer, _, keep in self.prunes:
            grid = merging.nested_grid(grid, keep) if grid and keep else None
            if grid:
                grids[layer] = grid
        return grids

    def changed(self, **values: Any) -> Plan:
        """This plan with other values of fields by name, whichever part has them: ``plan.changed(keep=..., bucket=9)``.

        Raises:
            TypeError: No part has a field of that name.
            PlanError: The plan then does not fit.
        """
        parts: dict[str, Any] = {}
        for name, part in _PARTS.items():
            own = {each.name for each in dataclasses.fields(part)} & set(values)
            if own and name not in values:
                parts[name] = dataclasses.replace(getattr(self, name), **{each: values.pop(each) for each in own})
        return dataclasses.replace(self, **parts, **values)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` turns back into an equal plan."""
        return {
            "schema_version": SCHEMA_VERSION,
            "schedule": self.schedule,
            "topk_limit": self.topk_limit,
            **super().to_json(),
        }

    @classmethod
    def from_json(cls, data: object, where: str = "plan") -> Plan:
        """Build a plan from ``to_json`` data, or from that of versions whose plans had no parts.

        Raises:
            PlanError: A field is missing, unknown or of another type, the schema is newer, or the plan does not fit.
        """
        if not isinstance(data, dict):
            raise PlanError("a plan is a JSON object", where=where, got=type(data).__name__)
        version = data.get("schema_version", 1)
        if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
            raise PlanError(
                "this plan has a schema this version does not know",
                where=f"{where}.schema_version",
                got=version,
                expected=f"1 to {SCHEMA_VERSION}",
                fix="update luvc-export",
            )
        if version == 1:
            data = schema_1.in_parts(data, where)
        if not isinstance(data.get("schedule", ""), str):
            raise PlanError("the schedule's name is a text", where=f"{where}.schedule", got=repr(data["schedule"])[:40])
        try:
            return super().from_json({k: v for k, v in data.items() if k != "schema_version"}, where)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PlanError("the plan cannot be read", where=where, got=str(error)) from error

    def _sharing_problems(self) -> list[str]:
        """What images that share a budget rule out, whatever else is wrong."""
        if not self.sharing.shared:
            return []
        lines = []
        if self.encoder.takes_units:
            lines.append("sharing.images: images that share a budget share no bucket")
        if self.llm.reducer == "merge":
            lines.append("llm.reducer: merging in the LLM needs one grid; images that share a budget have several")
        return lines

    def _parts_problems(self) -> list[str]:
        """What parts say against each other, looked at where each fits alone."""
        lines = []
        time = self.encoder.time
        if time is not None and (self.sharing.kind, self.sharing.images) != ("clip", time.frames):
            what = f"{self.sharing.images} images of a {self.sharing.kind} share a budget"
            lines.append(f"encoder.time: {time.frames} frames of a clip; {what}")
        if not self.encoder.grid_intact and self.llm.reads_grid and self._shrinks:
            bucket = self.encoder.takes_units
            why = "a bucket has gaps" if bucket else "encoder.prune restores 'none'"
            lines.append(f"{self.llm.reads_grid} needs the grid, of which {why}")
        if self.llm.method.needs_positions and len(self.chooses) > 1:
            lines.append(f"llm.method: {self.llm.method.name!r} needs the whole grid, and the first prune leaves gaps")
        return lines

    @property
    def _shrinks(self) -> bool:
        """Whether a budget is smaller than what comes, units of the last block being all that comes."""
        before = (self.sharing.images * self.encoder.last_units, *self.keep)
        return any(0 < keep < came for came, keep in zip(before, self.keep, strict=False))

    def _budget_problems(self, llm_fits: bool) -> list[str]:
        """What budgets say against the span, the targets, quotas and aggregates."""
        lines, span = [], self.span_tokens
        for layer, count in enumerate(self.keep):
            if not 0 <= count <= span:
                lines.append(f"llm.keep[{layer}]: got {count}, expected 0 to {span} (what the encoder gives)")
        if self.llm.reducer == "merge":
            return lines if lines or not llm_fits else self._rectangle_problems()
        for layer, before, kept in self.chooses:
            if self.topk_limit is not None and kept > self.topk_limit:
                lines.append(
                    f"llm.keep[{layer}]: selecting {kept} of {before} needs TopK K <= {self.topk_limit} on the target;"
                    " keep fewer or prune nothing there"
                )
        if self.llm.apart and not self.apart:
            got = "no prune chooses any" if self.apart is None else "the first prune is before layer 0"
            lines.append(f"llm.apart: tokens are apart until the first prune, after layer 0; {got}")
        if self.llm.aggregate:
            if not self.chooses:
                lines.append("llm.aggregate: no prune leaves a row for it: every budget is whole or 0")
            lines += [
                f"llm.keep[{layer}]: a budget of 1 would be the aggregate alone: at least 2, or 0"
                for layer, _, chosen in self.chooses
                if not chosen
            ]
        if self.sharing.quota != "none" and self.sharing.shared:
            quota, images = self.sharing.quota, self.sharing.images
            if not self.chooses:
                lines.append(f"sharing.quota: {quota!r} divides what a prune keeps; none keeps some and drops some")
            lines += [
                f"llm.keep[{layer}]: {chosen} chosen tokens for {images} images: a quota gives each at least 1"
                for layer, _, chosen in self.chooses
                if 0 < chosen < images
            ]
        return lines

    def _rectangle_problems(self) -> list[str]:
        for layer, before, kept in self.prunes:
            if kept and layer not in self.stage_grids:
                return [f"llm.keep[{layer}]: {kept} of {before} tokens are no rectangle to merge to"]
        return []


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        PlanError: It holds none.
    """
    from luvc_export.core.files.json_file import read_json  # whoever makes plans reads no file

    return Plan.from_json(read_json(path, MAX_PLAN_BYTES, PlanError, "the plan file"), str(path))
