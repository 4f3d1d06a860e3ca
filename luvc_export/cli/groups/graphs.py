"""Options that say what graphs are written beside what their plans say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from luvc_export.cli import options


@dataclass(frozen=True)
class GraphOptions:
    """Shape, arithmetic and weights of a bundle's graphs."""

    fit: Annotated[str, typer.Option("--fit", help="pad, stretch or crop pictures of another shape.")] = "pad"
    text_capacity: Annotated[int, typer.Option("--text-capacity", help="Text tokens, prompt and answer.")] = 1024
    dtype: Annotated[str, typer.Option("--dtype", help="Arithmetic of the graphs: fp32, fp16, bf16.")] = "fp32"
    weights: Annotated[str, typer.Option("--weights", help="copy, or reference the checkpoint's files.")] = "copy"
    no_weights: Annotated[bool, typer.Option("--no-weights", help="Graphs alone, from the config.")] = False
    debug_graph: Annotated[
        bool, typer.Option("--debug-graph", help="Also write a decoder that takes the kept indices (parity).")
    ] = False
    ignore_padding: Annotated[bool, typer.Option("--ignore-padding", help="Padding takes budget like picture.")] = False

    round_activations: Annotated[
        bool,
        typer.Option(
            "--round-activations",
            help="Products of a quantised checkpoint's codes round activations to 8 bits: faster on CPUs, not exact.",
        ),
    ] = False

    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse FP8 checkpoints, whose weights are widened when they are loaded.")
    ] = False

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``export_bundle`` by name.

        Raises:
            UsageError: A word is unknown.
        """
        options.choice("--fit", self.fit, ("pad", "stretch", "crop"))
        options.choice("--dtype", self.dtype, ("fp32", "fp16", "bf16"))
        options.choice("--weights", self.weights, ("copy", "reference"))
        return {
            "fit": self.fit,
            "text_capacity": self.text_capacity,
            "dtype": self.dtype,
            "weights": "none" if self.no_weights else self.weights,
            "debug": self.debug_graph,
            "padding": not self.ignore_padding,
            "round_activations": self.round_activations,
            "strict": self.strict,
        }


@dataclass(frozen=True)
class VocabularyOptions:
    """Tokens that answers may be written with."""

    vocab: Annotated[
        str | None,
        typer.Option(
            "--vocab",
            metavar="FILE|N",
            help="Head for some tokens alone: a JSON list of them, a text made of them, or how many (with --data).",
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Cases (JSON lines) whose tokens --vocab N keeps, those of answers first."),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``export_bundle`` by name."""
        number = self.vocab is not None and self.vocab.isascii() and self.vocab.isdecimal()
        vocab = int(self.vocab) if number and self.vocab else self.vocab
        return {"vocab": vocab, "vocab_data": str(self.data) if self.data else None}


@dataclass(frozen=True)
class LoraSlotOptions:
    """Places beside the LLM's products for adapters that come when the bundle answers."""

    lora_slots: Annotated[
        int | None,
        typer.Option(
            "--lora-slots", metavar="RANK", min=1, max=1024, help="Take adapters of up to this rank when answering."
        ),
    ] = None
    lora_targets: Annotated[
        str | None,
        typer.Option(
            "--lora-targets",
            metavar="NAME,..",
            help="Products of the LLM's layers with slots; default: every one.",
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``export_bundle`` by name."""
        names = self.lora_targets.split(",") if self.lora_targets else None
        return {"lora_slots": self.lora_slots, "lora_targets": [name.strip() for name in names] if names else None}


@dataclass(frozen=True)
class BucketOptions:
    """Graphs of fewer units, for pictures whose other units neighbours foretell."""

    unit_buckets: options.UnitBuckets = None
    unit_tolerance: options.UnitTolerance = 0

    @property
    def shares(self) -> tuple[int, ...]:
        """Percentages of ``--unit-buckets``; none where there is nothing.

        Raises:
            UsageError: See ``options.percentages``.
        """
        return options.percentages(self.unit_buckets)
