"""The LLM half, visual span first: one module for prefill and decode, pruned layer by layer to fixed budgets.

Inside, the sequence is [visual G * N | text T] whatever the prompt: physical order does not matter to attention, the
mask is built from each token's logical order. Every slice is then static, a prune is slice, gather, concatenate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import PLACE, State
from luvc_export.core.tasks import Embedding
from luvc_export.export.compression import scores, spu
from luvc_export.export.layers import attention, norm, rotate, split_heads
from luvc_export.export.llm import aggregate, choice, llm_merge
from luvc_export.export.llm.rope import Rope
from luvc_export.export.llm.shared_caches import Consumers, Producer, consume
from luvc_export.export.llm.sight import Images, Kind, Sight
from luvc_export.export.llm.span import Parts, Placed, Rows, Span, aggregated, rows_at
from luvc_export.export.llm.states.logical_order import LogicalOrder
from luvc_export.export.llm.vectors import of_rows
from luvc_export.export.llm.working import Working


class Decoder(nn.Module):
    """Decoder of a transformers text model with the usual names (Qwen2, Qwen3, Llama, Mistral, SmolLM).

    Args:
        text: Text model with ``embed_tokens``, ``layers`` and, before the head, ``norm`` or ``embedding_norm``.
        lm_head: Linear to the vocabulary.
        head_dim: Size of one attention head.
        rope: Angles from position ids.
        plan: Budgets; ``plan.layers`` must equal the model's.
        planes: DeepStack planes beside each visual token: ``visual_embeds`` is [B, G, N_0, (1 + planes) * D], and
            plane i is added to the visual tokens that are left after layer i.
        shared_order: Tokens of one image see each other both ways: all take the order of its first one.
        sources: The layers that read another one's cache, the last of the plan, and whose.
        states: What stands beside the keys and values of layers (``DecoderShape.states``).
        keyless: Layers that have such states instead.
    """

    def __init__(
        self,
        text: Any,
        lm_head: Any,
        head_dim: int,
        rope: Rope,
        plan: Plan,
        planes: int = 0,
        shared_order: bool = False,
        sources: Mapping[int, int] | None = None,
        states: Sequence[State] = (),
        keyless: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.embed_tokens: Any = text.embed_tokens
        self.layers: Any = text.layers
        self.norm: Any = text.norm if hasattr(text, "norm") else text.embedding_norm
        self.lm_head: Any = lm_head
        self.rope = rope
        self.plan = plan = scores.described(plan)
        self.head_dim, self.planes, self.shared_order = head_dim, planes, shared_order
        self.sources = dict(sources or {})
        #: Names of what is kept of a conversation, layer by layer, in graph order.
        self.kept_states = [
            (*(() if number in keyless else ("key", "value")), *(one.name for one in states if one.layer == number))
            for number in range(plan.cached)
        ]
        self.scale = float(head_dim) ** -0.5
        self.scores_cap: float | None = None
        #: How rows become vectors; None where they become logits. Vectors are prompts': no cache is read or returned.
        self.pooled: Embedding | None = None
        self.score = scores.find(plan.llm.method.name).score
        self.hidden = hidden = text.embed_tokens.weight.shape[1]
        self.chooses = {layer: (tokens, keep) for layer, tokens, keep in plan.chooses}
        for layer, (tokens, _) in self.chooses.items():
            if plan.llm.reducer == "prune":
                self.register_buffer(f"basis_{layer}", scores.constant(plan, layer, tokens, hidden), persistent=False)

    def forward(
        self,
        visual_embeds: Tensor,
        input_ids: Tensor,
        visual_position_ids: Tensor,
        position_ids: Tensor,
        visual_order: Tensor,
        order: Tensor,
        text_mask: Tensor,
        logits_indices: Tensor,
        past: Sequence[Tensor],
        forced: dict[int, Tensor] | None = None,
        visual_padding: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Run prefill (empty ``past``) or decode (G = 0); shapes in ``luvc_export.core.graph_io``.

        ``past`` is what is kept in graph order (``DecoderShape.kept``); ``forced`` gives, per pruning layer, the
        indices [B, G, keep] that replace the selection (parity). The other inputs are the graph's; without
        ``visual_padding`` no token is padding.

        Returns:
            Logits fp32 [B, n, vocab] (vectors fp32 [B, n, width] where rows are pooled), what is kept now in the order
            of ``past``, and for each prune with a budget above 0 the kept indices int64 [B, G, keep] into the encoder's
            visual tokens.
        """
        groups, count = visual_embeds.shape[1], self.plan.span_tokens
        text_cos, text_sin = self.rope(position_ids)
        cos, sin = self.rope(visual_position_ids)
        if self.shared_order:
            images, own = groups * self.plan.sharing.images, self.plan.vision_tokens
            visual_order = visual_order.unflatten(1, (images, own))[:, :, :1].expand(-1, -1, own).flatten(1, 2)
        visual = visual_embeds.flatten(1, 2)
        planes = visual[:, :, self.hidden :] if self.planes else self.carried(visual)
        index = torch.arange(count).expand(visual_embeds.shape[0], groups, count)
        mass = llm_merge.Mass.of(visual_order, visual_position_ids, visual_padding)
        if visual_padding is not None:
            index = spu.mark_padding(index, visual_padding)
        text = Placed(order, text_cos, text_sin)
        carried = aggregate.Mass.of(mass.sizes, visual_position_ids) if self.plan.llm.aggregate else None
        span = Span(visual_order, cos, sin, index, planes, carried)
        words = self.embed_text(input_ids)
        x = torch.cat([visual[:, :, : self.hidden] if self.planes else visual, words], 1)
        both_ways = any(self.kind(layer).both_ways for layer in self.layers)
        pictures = Images(self.plan, visual_order, groups) if both_ways else None
        entering, presents = iter(past), list[Tensor]()
        kept: list[Tensor] = []
        sight: Sight | None = None
        beside: dict[int, Tensor] = {}
        producers: dict[int, Producer] = {}
        last, frozen = self.plan.layers - 1, self.plan.llm.frozen
        if self.pooled is not None:  # nobody reads the last layer's visual rows, or everybody does
            frozen = frozen | {last} if self.pooled.pooling == "last" else frozen - {last}
        before: Tensor | None = None
        subject: Tensor | None = None
        if self.plan.apart is not None:  # chosen before the first layer: until they part, neither side sees the other
            at = choice.Where(self.plan.apart, 0, groups, count)
            rows = Rows(None, span.beside(text), order, text_mask)
            subject = forced[at.prune] if forced else choice.choose(self, at, x, span, rows, visual_padding is not None)
        for number, layer in enumerate(self.layers[: self.plan.cached]):
            keep = self.plan.keep[number]
            if number == self.planes and self.planes:
                span = span._replace(planes=None)  # all are added: nothing more to carry through prunes
            if keep < count:
                if keep and self.plan.llm.reducer == "merge":
                    normed = self.norm_of(self.parts(layer).before, x[:, : groups * count]).float()
                    where = number, x, normed, span, mass, groups, count
                    x, span, mass = llm_merge.merge_span(self.plan, self.rope, *where)
                elif keep:
                    rows = Rows(before, span.beside(text), order, text_mask)
                    chosen = subject if forced is None else forced[number]
                    subject = None
                    x, span = self._prune(number, x, span, groups, count, chosen, rows, visual_padding is not None)
                    kept.append(span.kept if visual_padding is None else spu.unmark(span.kept))
                elif span.whole is not None:
                    x, span = choice.mark_drop(x, span.whole, span.kept, count), span.empty()
                else:
                    x, span = x[:, groups * count :], span.empty()
                count, sight = keep, None
            past_held: dict[str, Any] = {name: next(entering, None) for name in self.kept_states[number]}
            if sight is None:
                order_of = None if pictures is None else pictures.order(span, count)
                sides = None if subject is None else choice.sides(subject, count)
                sight = Sight(span.beside(text), text, text_mask, order_of, groups * count, sides)
                # the next layer before which visual tokens leave, or that has no cache
                end = next((layer for layer, _, _ in self.plan.prunes if number < layer), self.plan.cached)
                beside = self.own_embeddings(range(number, end), span.planes, words, input_ids)
            before = x
            carries = number in self.plan.llm.kv_only
            works = Working(groups, count) if number in frozen else Working()
            works = works.partly(self.plan.llm, number) if carries else works
            x, held = self._layer(layer, x, sight, past_held, works, beside.get(number))
            if carries:
                merged = self.plan.llm.reducer == "merge"
                padding = mass.void(groups, count) if merged else span.kept < 0
                x = works.after(before, x, None if visual_padding is None else padding)
            presents += [held[name] for name in self.kept_states[number]] if self.pooled is None else []
            if number in self.sources.values():
                past_rows = _rows(past_held["key"])
                producers[number] = Producer(held["key"], held["value"], past_rows, sight, held.get(PLACE))
            if number < self.planes and number != last:
                x = self._add_plane(x, span, number)
        frozen_last = last in frozen and last < self.plan.cached
        asked = rows_at(x, logits_indices, 0 if frozen_last else groups * count)
        if self.sources:
            ids = rows_at(input_ids, logits_indices)
            shared = range(self.plan.cached, self.plan.layers)
            beside = self.own_embeddings(shared, None, rows_at(words, logits_indices), ids)
            layers = {number: self.layers[number] for number in shared}
            consumers = Consumers(layers, self.sources, self.kind, self._query, self._attended, self.scale)
            own_rows = [beside.get(number) for number in shared]
            asked = consume(consumers, asked, text, logits_indices, producers, own_rows)
        if self.pooled is not None:
            ends = groups, count, text_mask, logits_indices.shape[1]
            shown = of_rows(self.pooled, self.plan, self.lm_head, partial(self.norm_of, self.norm), x, asked, *ends)
            return shown, presents, kept
        return self.logits(asked), presents, kept

    def _add_plane(self, x: Tensor, span: Span, number: int) -> Tensor:
        """DeepStack after layer ``number``: the plane reaches the visual rows of x, the text rows stay."""
        assert span.planes is not None
        plane = span.planes[:, :, number * self.hidden : (number + 1) * self.hidden]
        return torch.cat([x[:, : plane.shape[1]] + plane, x[:, plane.shape[1] :]], 1)

    def _prune(
        self,
        number: int,
        x: Tensor,
        span: Span,
        groups: int,
        count: int,
        chosen: Tensor | None,
        rows: Rows,
        padded: bool,
    ) -> tuple[Tensor, Span]:
        tokens, keep = self.chooses[number]
        if not spu.traced() and not groups:  # a call of text alone: nothing to score
            return x, span._replace(kept=span.kept[:, :, :keep])
        if chosen is None:
            weight, epsilon = self.norm_weight(self.parts(self.layers[number]).before)
            if choice.as_marks(self.plan, weight, x):
                ranked = choice.Ranked(x, weight, epsilon, getattr(self, f"basis_{number}"))
                return choice.mark_prune(self.plan, ranked, span, rows.whole, tokens, keep)
            chosen = choice.choose(self, choice.Where(number, number, groups, count), x, span, rows, padded)
        if span.mass is not None:
            return aggregated(self.rope, x, span, aggregate.Dropped(chosen, count, span.mass), chosen)
        flat = spu.flat_index(chosen, count)
        visual = spu.gather(x[:, : groups * count], flat, groups, count, keep)
        return torch.cat([visual, x[:, groups * count :]], 1), span.gather(flat, groups, count, keep)

    def _layer(
        self,
        layer: Any,
        x: Tensor,
        sight: Sight,
        held: Mapping[str, Tensor],
        works: Working,
        own: Tensor | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """One block of the rows that work, and what it keeps of all now."""
        normed = self.norm_of(self.parts(layer).before, x)
        if "key" not in held:
            mixed, held = self.mix(layer, normed, held, sight.logical)
            return self._finish(layer, x, mixed, own), held
        placed, rows = sight.placed, _rows(held["key"])
        if PLACE in held:
            held = {**held, PLACE: _behind(held[PLACE], placed.order, 1)}
        mask = sight.mask(self.kind(layer), rows, works, held.get(PLACE))
        key, value = self.keys_values(layer, normed)
        key = self.placed(layer, key, self.parts(layer).key_norm, placed.cos, placed.sin)
        key, value = _behind(held["key"], key), _behind(held["value"], value)
        some = works.of(normed)
        query = self._turned(layer, some, works.of(placed.cos), works.of(placed.sin))
        if isinstance(works.still, torch.SymInt):  # torch 2.11 takes the rows that are left for any number
            torch._check(mask.shape[2] == query.shape[2])
        attended = attention(query, key, value, mask, self.scale, self.scores_cap)
        own = None if own is None else works.of(own)
        gate = self.gate(layer, some)
        attended = attended if gate is None else attended * gate
        return self._attended(layer, works.of(x), attended, own), {**held, "key": key, "value": value}

    def _query(self, layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries [B, heads, S, Dh] of rows that enter a layer."""
        return self._turned(layer, self.norm_of(self.parts(layer).before, x), cos, sin)

    def _turned(self, layer: Any, normed: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        query, factor = self.queries(layer, normed), self.query_factor(cos)
        query = self.placed(layer, query, self.parts(layer).query_norm, cos, sin)
        return query if factor is None else query * factor[:, None].to(query.dtype)

    def _attended(self, layer: Any, x: Tensor, attended: Tensor, own: Tensor | None) -> Tensor:
        return self._finish(layer, x, self.parts(layer).out(attended), own)

    def _finish(self, layer: Any, x: Tensor, mixed: Tensor, own: Tensor | None) -> Tensor:
        x = x + self.after_attention(layer, mixed)
        return self.leave(layer, x + self.feed_forward(layer, x), own)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        """Text embeddings [B, T, D]. This and those below are what a family's own text model may override."""
        embeds: Tensor = self.embed_tokens(input_ids)
        return embeds

    def parts(self, layer: Any) -> Parts:
        """Names of Llama, Qwen2, Qwen3 and Mistral."""
        attn = layer.self_attn
        norms = getattr(attn, "q_norm", None), getattr(attn, "k_norm", None)
        return Parts(layer.input_layernorm, attn.o_proj, *norms)

    def mix(
        self, layer: Any, normed: Tensor, held: Mapping[str, Tensor], logical: LogicalOrder
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What a layer without keys does to rows after its input norm [B, V + T, D], and its states after them."""
        raise NotImplementedError(f"{type(self).__name__} has no layer without keys")

    def norm_of(self, module: Any, x: Tensor) -> Tensor:
        """Norm of a transformers module."""
        return norm(module, x)

    def norm_weight(self, module: Any) -> tuple[Tensor, float]:
        """Factor [D] and epsilon of ``norm_of``."""
        return module.weight, float(module.variance_epsilon)

    def angles(self, layer: Any, cache: Tensor) -> Tensor:
        """What of a rotary cache this layer uses, [B, S, Dh / 2]."""
        return cache

    def placed(self, layer: Any, heads: Tensor, norm: Any, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys [B, heads, S, Dh] of rows: by their norm, if they have one, then turned."""
        return self.turn(layer, heads if norm is None else self.norm_of(norm, heads), cos, sin)

    def turn(self, layer: Any, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys [B, heads, S, Dh] of rows by their rotary caches."""
        return rotate(heads, self.angles(layer, cos), self.angles(layer, sin))

    def query_factor(self, cache: Tensor) -> Tensor | None:
        """Factor on every row's queries [B, S, 1], from the rotary cache of cosines; None where there is none."""
        return None

    def after_attention(self, layer: Any, attended: Tensor) -> Tensor:
        """What is added to the hidden states after attention."""
        return attended

    def feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        """What is added to the hidden states after the MLP."""
        out: Tensor = layer.mlp(self.norm_of(layer.post_attention_layernorm, x))
        return out

    def leave(self, layer: Any, x: Tensor, own: Tensor | None) -> Tensor:
        """The end of a layer, whose ``own_embeddings`` of the rows are ``own`` [B, S, P]."""
        return x

    def keys_values(self, layer: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, not normed and not turned yet, and values [B, kv heads, S, Dh] of rows after the input norm."""
        attn, size = layer.self_attn, self.head_size(layer)
        return split_heads(attn.k_proj(normed), size), split_heads(attn.v_proj(normed), size)

    def queries(self, layer: Any, normed: Tensor) -> Tensor:
        """Queries, not normed and not turned yet [B, heads, S, Dh], of rows after the input norm."""
        return split_heads(layer.self_attn.q_proj(normed), self.head_size(layer))

    def gate(self, layer: Any, normed: Tensor) -> Tensor | None:
        """Factor on what attention gives [B, S, heads * Dh], of rows after the input norm; None where there is none."""
        return None

    def head_size(self, layer: Any) -> int:
        """Size of one attention head of a layer."""
        return self.head_dim

    def kind(self, layer: Any) -> Kind:
        """What a layer's rows may look at."""
        return Kind()

    def carried(self, visual: Tensor) -> Tensor | None:
        """What prunes carry beside each visual token, [B, G * N, C], made of their embeddings [B, G * N, D]."""
        return None

    def own_embeddings(
        self, layers: range, visual: Tensor | None, words: Tensor, input_ids: Tensor
    ) -> dict[int, Tensor]:
        """What single layers have of each row beside the hidden states, [B, V + T, P] by layer.

        Args:
            layers: Which; their rows are the same.
            visual: What is carried beside the visual rows, [B, V, C]; None where there are none.
            words: Text embeddings [B, T, D].
            input_ids: int64 [B, T].
        """
        return {}

    def logits(self, rows: Tensor) -> Tensor:
        """Hidden states [B, n, D] to logits fp32 [B, n, vocab]."""
        flat = self.norm_of(self.norm, rows.flatten(0, 1))  # a Gemm of rows reads a tied embedding as it lies
        scores: Tensor = self.lm_head(flat).unflatten(0, (rows.shape[0], -1))
        return scores.float()


def _rows(past: Tensor | None) -> int:
    """Rows of a layer's cached keys, of which there are none without a cache."""
    return 0 if past is None else past.shape[2]


def _behind(past: Tensor | None, new: Tensor, axis: int = 2) -> Tensor:
    """Rows of a call behind those of the cache."""
    return new if past is None else torch.cat([past, new], axis)
