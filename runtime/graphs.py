"""The two graphs of a plan as functions: images to visual tokens, tokens to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.manifest import Manifest
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.tasks import Embedding
from luvc_export.core.token_layout import Block, TokenLayout, arrange, seen_both_ways
from luvc_export.errors import BundleError, UsageError
from luvc_export.runtime import batching
from luvc_export.runtime.call_times import CallClock, Part
from luvc_export.runtime.host.windows import Windows
from luvc_export.runtime.media.padding import all_picture, padding_tokens
from luvc_export.runtime.model import Array, Backend, Cache, PendingToken, TokensPrompt
from luvc_export.runtime.state import RowsState, RowsStep, State, Step, VisualFeatures, join_features

if TYPE_CHECKING:
    from luvc_export.bundle.adapters.peft_folder import Adapter
    from luvc_export.runtime.adapters.factors import Factors

#: No tokenizer has it.
NO_TOKEN = -1


class Graphs:
    """Runs the graphs of one plan on a back-end. Holds no conversation: ``State`` does.

    Args:
        manifest: Of the bundle.
        plan: One of its plans.
        backend: Has the graphs of that plan.
        debug: The decoder is the debug graph, whose prunes are told what to keep.
    """

    def __init__(self, manifest: Manifest, plan: Plan, backend: Backend, debug: bool = False) -> None:
        self.manifest, self.plan, self.backend, self._debug = manifest, plan, backend, debug
        self._rows, self._width = manifest.does.output, manifest.row_width
        #: What leaves the caches after a call.
        self.windows = Windows(backend.states if backend.capabilities.host_caches else (), plan)
        self._factors: Factors | None = None
        if manifest.lora:
            from luvc_export.runtime.adapters.factors import Factors

            self._factors = Factors(manifest.lora, backend)
        #: What calls of the decoder took, but for those whose token the device picks: they return before it is there.
        self.clock = CallClock()

    def encode_images(
        self,
        images: NDArray[np.uint8],
        padding: NDArray[np.bool_] | None = None,
        units: NDArray[np.int32] | None = None,
    ) -> VisualFeatures:
        """Run the vision graph on uint8 [n, F, H, W, 3]; without images, return arrays of zero rows.

        ``padding``, bool [n, H0, W0] (``Request.padding``), marks units that show padding alone; None marks none.
        ``units``, int32 [n, K] (``Request.units``), are those a bucket computes; None takes the first.
        """
        manifest, tokens = self.manifest, self.plan.vision_tokens
        if not len(images):
            return no_images(manifest, self.plan)
        time = self.plan.encoder.time
        if time is not None and len(images) % time.frames:
            raise UsageError(
                "frames of whole clips merge",
                where="images",
                got=f"{len(images)} images",
                expected=f"a multiple of {time.frames}",
            )
        empty = all_picture(len(images), self.plan.grid) if padding is None else padding
        chosen = units if self.plan.encoder.takes_units else empty if self.plan.encoder.reads_padding else None
        out = self.backend.vision(images) if chosen is None else self.backend.vision(images, chosen)
        width = 2 * (manifest.prompt.position_copies if self.plan.encoder.positions == "multi" else 1)
        expected = {
            graph_io.VISUAL_EMBEDS: (tokens, manifest.visual_width),
            graph_io.VISUAL_POSITIONS: (tokens, width),
            graph_io.MERGED_INTO: (self.plan.units,),
        }
        for name, shape in expected.items():
            if name in out:
                _check_shape(name, out[name], (len(images), *shape))
        merged = out.get(graph_io.MERGED_INTO)
        return self.adopted(VisualFeatures(out[graph_io.VISUAL_EMBEDS], out[graph_io.VISUAL_POSITIONS], merged), empty)

    def adopted(self, seen: VisualFeatures, padding: NDArray[np.bool_] | None = None) -> VisualFeatures:
        """What a vision graph equal to this plan's gave, with what its decoder takes beside; ``padding`` as above."""
        empty = all_picture(len(seen.positions), self.plan.grid) if padding is None else padding
        tokens, reads = self.plan.vision_tokens, self.plan.decoder_padding
        return replace(seen, padding=padding_tokens(empty, seen.merged_into, tokens) if reads else None)

    def run(
        self,
        token_ids: Sequence[int],
        seen: VisualFeatures | None = None,
        state: State | None = None,
        *,
        blocks: Mapping[int, Block] | None = None,
        all_logits: bool = False,
        forced: Mapping[int, NDArray[np.int64]] | None = None,
        adapter: Adapter | None = None,
    ) -> Step:
        """Run the decoder: a prompt (prefill), or more tokens after ``state`` (decode, or a chat's next turn).

        Args:
            token_ids: Text tokens, with a placeholder per image of ``seen``.
            seen: Images of this call; without any, every token is text.
            state: What came before.
            blocks: Images that belong together (``Request.blocks``).
            all_logits: Logits of every text token (parity); otherwise of the last one.
            forced: With ``debug``, what each prune keeps: layer -> int64 [G, keep] as in ``Step.kept``, ascending.
            adapter: LoRA adapter of a prompt; what continues ``state`` has the state's.

        Raises:
            UsageError: Fewer images, or more, than share a budget.

        Returns:
            ``Step``; its logits are those of text tokens only, in order.
        """
        begin = (state.next_position, state.next_order) if state else (0, 0)
        (layout,), feeds = self.feeds([TokensPrompt(token_ids, None, blocks or {}, None, *begin)], seen, all_logits)
        feeds[graph_io.TEXT_MASK] = np.ones(
            (1, (state.past_text if state else 0) + layout.input_ids.shape[1]), np.bool_
        )
        adapter = state.adapter if state else adapter
        feeds |= self.adapter_inputs([adapter])
        if self._debug:
            feeds |= forced_indices(self.plan, forced or {}, feeds[graph_io.VISUAL_EMBEDS].shape[1])
        part: Part = "step" if state and len(token_ids) == 1 else "prompt"
        out, cache = self._call(part, feeds, state.cache if state else None)
        _check_shape(self._rows, out[self._rows], (1, None, self._width))
        kept = dict(forced or {}) or {layer: indices[0] for layer, indices in kept_tokens(self.plan, out).items()}
        token = out.get(graph_io.NEXT_TOKEN)
        mask = feeds[graph_io.TEXT_MASK]
        cache = self.windows.left(cache, mask, [layout.next_order])
        groups = feeds[graph_io.VISUAL_EMBEDS].shape[1] + (state.groups if state else 0)
        after = State(cache, mask.shape[1], layout.next_position, layout.next_order, adapter, groups)
        return Step(out[self._rows], after, kept, None if token is None else int(token[0, 0]))

    def prefill(self, prompts: Sequence[TokensPrompt], seen: VisualFeatures | None = None) -> RowsStep:
        """Run the prompts of several rows in one call, with equally many images; ``seen`` as of ``decoder_feeds``.

        Raises what ``run`` raises.
        """
        layouts, feeds = self.feeds(prompts, seen, all_logits=self.every is not None)
        adapters = tuple(prompt.adapter for prompt in prompts)
        out, cache = self._call("prompt", feeds | self.adapter_inputs(adapters), None)
        rows = self.rows(out, layouts, feeds)
        mask = feeds[graph_io.TEXT_MASK]
        positions = np.array([layout.next_position for layout in layouts], np.int64)
        orders = np.array([layout.next_order for layout in layouts], np.int64)
        after = RowsState(self.windows.left(cache, mask, orders), mask, positions, orders, adapters)
        return RowsStep(rows, after, kept_tokens(self.plan, out))

    @property
    def every(self) -> Embedding | None:
        """How vectors are made, where every token has one."""
        how = self.manifest.embedding
        return how if how is not None and how.pooling == "every" else None

    def rows(self, out: Mapping[str, Any], layouts: Sequence[TokenLayout], feeds: batching.Feeds) -> Any:
        """Of each prompt its last row of logits, or its vector or vectors, without those of its padding."""
        values, every = np.asarray(out[self._rows]), self.every
        if every is None:
            _check_shape(self._rows, values, (len(layouts), None, self._width))
            return values[:, -1]
        own = every.image_vectors(self.plan.keep[-1], self.plan.grid) * feeds[graph_io.VISUAL_EMBEDS].shape[1]
        _check_shape(self._rows, values, (len(layouts), own + feeds[graph_io.TEXT_MASK].shape[1], self._width))
        lengths = [own + layout.input_ids.shape[1] for layout in layouts]
        return [row[:length] for row, length in zip(values, lengths, strict=True)]

    def verify(self, tokens: Sequence[Sequence[int]], state: RowsState) -> tuple[NDArray[np.float32], Cache]:
        """Go on with several tokens of every row, none of them certain yet.

        Args:
            tokens: Of each of B rows, at least one; T at most.
            state: What came before, without them.

        Returns:
            Logits after each, float32 [B, T, vocab] (of rows with fewer, something behind theirs), and the caches with
            T more rows.
        """
        feeds = self._feeds_after(tokens, state) | self.adapter_inputs(state.adapters)
        out, cache = self._call("verify" if max(map(len, tokens)) > 1 else "step", feeds, state.cache)
        shape = len(tokens), max(map(len, tokens)), self.manifest.decoder.vocab
        _check_shape(graph_io.LOGITS, out[graph_io.LOGITS], shape)
        return out[graph_io.LOGITS], cache

    def _feeds_after(self, tokens: Sequence[Sequence[int]], state: RowsState) -> batching.Feeds:
        width = self.manifest.visual_width
        return batching.step_feeds(tokens, state.positions, state.orders, state.text_mask, self._axes, width, self.plan)

    def sample(self, token: int | PendingToken, state: RowsState) -> tuple[PendingToken, Cache]:
        """Go on with ``token`` of the only row of ``state``: what the decoder itself picks next, before it is there.

        Args:
            token: An id, or what the step that gave ``state`` picked.
            state: What came before.

        Returns:
            The token, and the caches with one more row.
        """
        token_id, before = (token, None) if isinstance(token, int) else (0, token)
        feeds = self._feeds_after([[token_id]], state) | self.adapter_inputs(state.adapters)
        return self.backend.sample(feeds, state.cache, before)

    def feeds(
        self, prompts: Sequence[TokensPrompt], seen: VisualFeatures | None = None, all_logits: bool = False
    ) -> tuple[list[TokenLayout], batching.Feeds]:
        """See ``decoder_feeds``."""
        return decoder_feeds(self.manifest, self.plan, prompts, seen, all_logits)

    def forget(self, adapter: Adapter) -> None:
        """Give back what is kept of an adapter that no answer has any more."""
        if self._factors is not None:
            self._factors.forget(adapter)

    def adapter_inputs(self, adapters: Sequence[Adapter | None]) -> dict[str, Any]:
        """Inputs of the slots of a call whose rows have these adapters; nothing where the bundle has no slots."""
        return self._factors.feeds(adapters) if self._factors is not None else {}

    def _call(self, part: Part, feeds: batching.Feeds, cache: Cache | None) -> tuple[dict[str, Array], Cache]:
        begin = perf_counter()
        called = self.backend.decode(feeds, cache)
        self.clock.add(part, self.backend.engine(feeds, cache), perf_counter() - begin)
        return called

    @cached_property
    def _axes(self) -> int:
        """Rotary position axes, copies included."""
        return int(self.feeds([TokensPrompt([0])])[0][0].position_ids.shape[0])


def no_images(manifest: Manifest, plan: Plan) -> VisualFeatures:
    """What the vision graph gives for no images: arrays of zero rows."""
    copies = manifest.prompt.position_copies if plan.encoder.positions == "multi" else 1
    embeds = np.zeros((0, plan.vision_tokens, manifest.visual_width), np.float32)
    return VisualFeatures(embeds, np.zeros((0, plan.vision_tokens, 2 * copies), np.float32))


def decoder_feeds(
    manifest: Manifest,
    plan: Plan,
    prompts: Sequence[TokensPrompt],
    seen: VisualFeatures | None = None,
    all_logits: bool = False,
) -> tuple[list[TokenLayout], batching.Feeds]:
    """Layouts and decoder inputs of rows in one call.

    Args:
        manifest: Of the bundle.
        plan: One of its plans.
        prompts: What each row reads.
        seen: Images of all rows, equally many each, in the place of the prompts' own ``features``; where there are
            neither, every token is text.
        all_logits: Logits of every text token; otherwise of each row's last one.

    Raises:
        UsageError: Fewer images, or more, than share a budget.
    """
    spec, rows = manifest.prompt, len(prompts)
    shown = [prompt.features for prompt in prompts if prompt.features is not None]
    seen = join_features(shown) if seen is None and shown else seen
    placeholder = NO_TOKEN if seen is None else spec.image_token_id
    seen = no_images(manifest, plan) if seen is None else seen
    images = len(seen.positions) // rows
    layouts = [
        arrange(
            list(prompt.token_ids),
            placeholder,
            seen.positions[row * images : (row + 1) * images],
            plan.grid,
            spec.position_kind,
            prompt.position,
            prompt.order,
            prompt.blocks,
        )
        for row, prompt in enumerate(prompts)
    ]
    if spec.prefix is not None:
        layouts = [seen_both_ways(layout) for layout in layouts]
    void = None if seen.padding is None else seen.padding.reshape(rows, -1, plan.span_tokens)
    return layouts, batching.feeds(layouts, grouped(plan, seen.embeds, rows), all_logits, void)


def kept_tokens(plan: Plan, out: Mapping[str, Array]) -> dict[int, NDArray[np.int64]]:
    """What each prune kept, [B, G, keep], of a decoder's outputs; of those with a budget of 0 nothing is said."""
    names = {layer: graph_io.kept_name(layer) for layer, _, _ in plan.prunes}
    return {layer: out[name] for layer, name in names.items() if name in out}


def _check_shape(name: str, array: Array, expected: tuple[int | None, ...]) -> None:
    """Check an output's shape: a bundle's graphs are untrusted, and the runtime indexes their outputs. None: any size.

    Raises:
        BundleError: An output has another shape.
    """
    shape = tuple(array.shape)
    if len(shape) != len(expected) or any(want not in (None, got) for got, want in zip(shape, expected, strict=True)):
        raise BundleError(
            "a graph gives an output of another shape than its plan",
            where=name,
            got=list(shape),
            expected=["any" if size is None else size for size in expected],
            fix="export the bundle again",
        )


def grouped(plan: Plan, embeds: Array, rows: int = 1) -> Array:
    """Visual embeddings [n, N_0, D] as the decoder takes them, [rows, G, span, D].

    A single row of single images may stay on its device.

    Raises:
        UsageError: A plan's shared budget is for more images, or fewer.
    """
    if rows == plan.sharing.images == 1:
        return embeds[None]
    groups, rest = divmod(len(embeds) // rows, plan.sharing.images)
    if rest:
        raise UsageError(
            "the plan shares its budget over another number of images",
            where="images",
            got=len(embeds) // rows,
            expected=f"a multiple of {plan.sharing.images}",
        )
    return np.asarray(embeds).reshape(rows, groups, plan.span_tokens, embeds.shape[-1])


def forced_indices(plan: Plan, forced: Mapping[int, NDArray[np.int64]], groups: int) -> dict[str, Array]:
    """Turn indices of the vision graph's tokens into indices of the span that enters each prune, as graphs count.

    Args:
        plan: Of the graph.
        forced: Layer -> int64 [G, keep] as in ``Step.kept``, ascending.
        groups: G, images or groups of images that share a budget.

    Returns:
        Inputs by contract name, each int64 [1, G, keep].

    Raises:
        UsageError: A prune is not told, or told what the one before did not keep.
    """
    feeds: dict[str, Array] = {}
    entering = np.broadcast_to(np.arange(plan.span_tokens), (groups, plan.span_tokens))
    for layer, _, keep in plan.chooses:
        indices = forced.get(layer, np.zeros((0, keep), np.int64))
        inside = [np.flatnonzero(np.isin(row, wanted)) for row, wanted in zip(entering, indices, strict=False)]
        if indices.shape != (groups, keep) or any(len(places) != keep for places in inside):
            raise UsageError(
                "a debug session must be told what each prune keeps",
                where=f"forced[{layer}]",
                got=f"int64 {list(indices.shape)}",
                expected=f"[{groups}, {keep}] different tokens that the prune before kept, ascending",
            )
        feeds[graph_io.forced_name(layer)] = np.array(inside, np.int64).reshape(1, groups, keep)
        entering = indices
    return feeds
