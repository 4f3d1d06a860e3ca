"""Names and meanings of graph inputs and outputs: the contract between export, engines and runtime.

Shapes use n images, F frames, B rows of a batch, G images a row, N_0 visual tokens an image (with a joint budget, G
groups of ``joint_images`` images each and the N_0 of a whole group), D hidden size, T new text
tokens, P past text tokens, Hkv key/value heads, Dh head size and A rotary position axes (1, 3, or 3 per copy).

vision:  image uint8 [n, F, H, W, 3] -> visual_embeds [n, N_0, D], visual_positions float32 [n, N_0, 2 * copies]
(row, column of merged units), merged_into int64 [n, H0 * W0] (which visual token each original unit became part of;
-1 for a unit that left the encoder and did not come back).

where the plan merges, or prunes in the encoder, and its pictures may be padded, also
padding bool [n, H0, W0]: units that show padding alone.

where the plan is a bucket of K units, also
units int32 [n, K]: the units to compute, ascending; N_0 is K, and merged_into is -1 for every other.

decoder, one graph for prefill and decode (G = 0 in decode):
visual_embeds [B, G, N_0, D], input_ids int64 [B, T], visual_position_ids float32 [A, B, G * N_0],
position_ids float32 [A, B, T], visual_order int64 [B, G * N_0], order int64 [B, T], text_mask bool [B, P + T],
past_key_values.N.key/.value [B, Hkv, G_past * keep_N + P, Dh], past_states.N.NAME [B, ...], logits_indices int64
[B, n] -> logits float32 [B, n, vocab], present.N.key/.value, present_states.N.NAME, kept_indices.N int64 [B, G, keep_N]
per prune at layer N. Hkv and Dh are layer N's. Which layers have keys and values, and which states beside them or
instead, says ``DecoderShape.kept``, in graph order. Layers that read another one's cache (the last
``Plan.llm.shared``) have none in the graph.

A layer's cache is laid out [past | visual of this call | text of this call]. What is past is visible to everything
new; among new tokens a key is visible to a query when its order is not greater. Padding text carries ``text_mask``
False; a call that adds images to a cache that is not empty must have no padding. ``order`` is the logical place of a
token in the prompt; visual tokens of one image carry theirs.

Where a layer has a window (``shapes.State.window``), rows that no later token sees may have left its cache, and rows of
place -2**40, which none sees, may be among it: its past rows are a number of their own, less than P too, of which the
last ones are those that the end of ``text_mask`` speaks of.

Where the plan chooses among visual tokens and its pictures may be padded, also visual_padding bool [B, G, N_0]: tokens
made of units that show padding alone.

Where the bundle has slots for adapters (``Manifest.lora``), also lora_rows [B, R], and for each slot lora.N.MODULE.a
[K, R] and lora.N.MODULE.b [R, M], in the graph's arithmetic (lora_rows of 16-bit engines is float32): the product of K
inputs and M outputs gives for row i ``x @ W + (x @ a where lora_rows[i] is 1, else 0) @ b``. R, the ranks of all
adapters of a call side by side, may be 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from luvc_export.core.plan import Plan

IMAGE = "image"
PADDING = "padding"
UNITS = "units"
VISUAL_EMBEDS = "visual_embeds"
VISUAL_POSITIONS = "visual_positions"
MERGED_INTO = "merged_into"

INPUT_IDS = "input_ids"
VISUAL_POSITION_IDS = "visual_position_ids"
POSITION_IDS = "position_ids"
VISUAL_ORDER = "visual_order"
ORDER = "order"
TEXT_MASK = "text_mask"
LOGITS_INDICES = "logits_indices"
VISUAL_PADDING = "visual_padding"
#: Which of the ranks that are side by side in a call belong to a row's adapter: 1.0 or 0.0.
LORA_ROWS = "lora_rows"
#: Of decoders whose caches have a fixed capacity (KV form ``inplace``), both int64 [B]: text tokens and groups that the
#: caches of each row hold. ``text_mask`` is then [B, text capacity], over text slots.
PAST_TEXT = "past_text"
PAST_GROUPS = "past_groups"
LOGITS = "logits"
#: In their place where nothing is decoded: float32 [B, n, width], of a decoder that takes and gives no caches.
VECTORS = "vectors"
#: Rows [N, D] before the last norm, of the tokens whose logits are asked for (``split_head``): what a decoder gives
#: beside logits [B, n, vocab], and what its head alone takes, which gives them as [N, vocab].
HEAD_ROWS = "head_rows"
#: Logit of a token that a reduced head has no row for: far below any other, and a number fp16 has.
ABSENT = -1e4
#: Of decoders whose target chooses tokens (``TargetSpec.next_token``), both [B, 1]: the most likely token after the
#: last position asked about, int64, and its logit, float32, infinite where any logit is not a number.
NEXT_TOKEN = "next_token"
NEXT_LOGIT = "next_logit"

#: Behind a cache input's name: its newest rows, where the rows that stand are an input of their own. The output is then
#: the newest rows with the call's behind them (``split_kv_cache``).
NEWEST = ".newest"
#: Rows of a step at most: the longest draft and the token before it.
STEP = 33

#: How inputs that go round begin: keys and values, and states beside them.
PAST_KEY_VALUES, PAST_STATES = "past_key_values.", "past_states."

_TENSORS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
#: Element type by name; of what is not here the graph's arithmetic decides.
TYPES: dict[str, str] = {name: each["type"] for name, each in _TENSORS.items() if "type" in each}
#: Axes of inputs by name: image count n, batch B, groups G, visual span V = G * N_0, new text T, all text M, logits L,
#: ranks R of adapters. A dot is an axis that the contract fixes.
AXES: dict[str, str] = {name: each["axes"] for name, each in _TENSORS.items() if "axes" in each}
#: Of every decoder, before the caches.
DECODER_INPUTS = (
    VISUAL_EMBEDS,
    INPUT_IDS,
    VISUAL_POSITION_IDS,
    POSITION_IDS,
    VISUAL_ORDER,
    ORDER,
    TEXT_MASK,
    LOGITS_INDICES,
)


def vision_inputs(plan: Plan) -> tuple[str, ...]:
    """Inputs of a plan's vision graph, in graph order."""
    if plan.encoder.takes_units:
        return (IMAGE, UNITS)
    return (IMAGE, PADDING) if plan.encoder.reads_padding else (IMAGE,)


def decoder_inputs(plan: Plan) -> tuple[str, ...]:
    """Inputs of a plan's decoder graph but for the caches, in graph order."""
    return (*DECODER_INPUTS, VISUAL_PADDING) if plan.decoder_padding else DECODER_INPUTS


def lora_names(layer: int, module: str) -> tuple[str, str]:
    """Inputs with the two factors of a slot, such as ``lora.3.q_proj.a`` and ``lora.3.q_proj.b``."""
    return f"lora.{layer}.{module}.a", f"lora.{layer}.{module}.b"


def is_factor(name: str) -> bool:
    """Whether an input is one of a slot's two factors."""
    return name.startswith("lora.")


def past_names(layers: int) -> list[str]:
    """Cache inputs of the first ``layers`` in graph order: key, value of layer 0, key, value of layer 1, ..."""
    return [f"past_key_values.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def cache_inputs(layers: int, inputs: Iterable[str]) -> list[str]:
    """What a graph with ``inputs`` takes of a conversation: keys and values, unless a layer has states instead."""
    states = [name for name in inputs if name.startswith(PAST_STATES) and not name.endswith(NEWEST)]
    keyed = {cache_layer(name) for name in inputs if name.startswith(PAST_KEY_VALUES)}
    keyless = {cache_layer(name) for name in states} - keyed
    return [*(name for name in past_names(layers) if cache_layer(name) not in keyless), *states]


def present_name(past: str) -> str:
    """The output that goes on from a cache input, of keys, values or states."""
    return past.replace(PAST_KEY_VALUES, "present.").replace(PAST_STATES, "present_states.")


def cache_layer(name: str) -> int:
    """The layer whose keys, values or state an input is."""
    return int(name.split(".")[1])


def key_scales_name(layer: int) -> str:
    """Constant of a graph whose caches are codes: what a key's codes are multiplied by, float32 [Hkv * Dh]."""
    return f"key_scales.{layer}"


def kept_name(layer: int) -> str:
    """Output that says which of the encoder's visual tokens a prune at ``layer`` kept."""
    return f"kept_indices.{layer}"


def forced_name(layer: int) -> str:
    """Input of the debug graph that replaces the selection of the prune at ``layer``.

    int64 [B, G, keep], ascending, counted within the span that enters the prune; ``kept_name`` counts from the
    encoder.
    """
    return f"forced_indices.{layer}"
