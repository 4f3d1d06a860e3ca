"""The contract of a running model: what an engine asks of it, whatever computes it.

A ``Backend`` runs the vision graph and the decoder graph of one plan and says what it can do (``Capabilities``).
``Slots`` are conversations side by side in its decoder: a prompt joins, every step gives each slot tokens, a slot that
leaves is free for others. ``runtime.engine`` alone calls ``join``, ``extend`` and ``step``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.shapes import State as StateKind
from luvc_export.core.token_layout import Block
from luvc_export.runtime.state import Array as Array
from luvc_export.runtime.state import Cache as Cache
from luvc_export.runtime.state import State, VisualFeatures

if TYPE_CHECKING:
    from luvc_export.bundle.adapters.peft_folder import Adapter

#: Tokens of a slot that goes on with what the device chose at the step before (``Capabilities.picks_tokens``).
DEVICE_CHOICE: tuple[int, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """What a back-end can do.

    Args:
        rows: Conversations in one decoder call at most; None for any number.
        host_caches: KV caches lie in the host's memory: rows of several calls are packed into one, rows leave a sliding
            window, drafted tokens are rolled back, and prefixes wait for other questions.
        picks_tokens: The decoder gives its most likely next token, so greedy decoding leaves logits on the device.
        device_slots: Slots for several conversations lie in the device's memory (``open_slots``): prompts join while
            others step, and no slot can be taken out.
        packs_weights: Loaded graphs hold weights of their own, so that few plans are loaded at a time.
        keeps_buckets: A plan and its buckets, which load slowly, stay loaded while memory lasts.
        times_graphs: ``graph_seconds`` and ``profile`` are there.
    """

    rows: int | None = None
    host_caches: bool = False
    picks_tokens: bool = False
    device_slots: bool = False
    packs_weights: bool = False
    keeps_buckets: bool = False
    times_graphs: bool = False

    @property
    def shares_steps(self) -> bool:
        """Slots that joined one by one share a step: device slots, or caches of the host that are packed together."""
        return self.device_slots or (self.host_caches and self.rows != 1)


class Backend:
    """Loads the graphs of one plan and runs them. Engines derive from it; what they leave out is as here.

    Attributes:
        name: ``cpu``, ``cuda``, ``openvino:CPU`` or ``tensorrt``.
        arithmetic: What products are computed in: ``fp32``, ``fp16`` or ``bf16``.
        capabilities: What it can do.
        states: What its KV caches consist of, in graph order.
        notes: What a user should know of how this machine computes, one line each.
        graph_seconds: Spent inside the engine's calls so far, all graphs together.
        compile_seconds: What of loading was compiling; None where that is not measured.
        profile: Prefix of the profile files of graphs loaded from now on; None for none.
        narrow_floats: Products of unquantised weights run in bf16 though the arithmetic is fp32.
        in_place: Products of the decoder that read their weights where the file lies; the others are packed.
    """

    name: str = "?"
    arithmetic: str = ""
    capabilities: Capabilities = Capabilities()
    states: tuple[StateKind, ...] = ()
    notes: tuple[str, ...] = ()
    graph_seconds: float = 0.0
    compile_seconds: float | None = None
    profile: str | None = None
    narrow_floats: bool = False

    @property
    def in_place(self) -> int:
        """See above."""
        return 0

    def load(self, images: bool = True) -> None:
        """Load what is not loaded yet; the vision graph only for ``images``. The other methods do it by themselves.

        Raises:
            MachineError: The machine lacks the back-end, a device or memory.
            BundleError: A graph or its weights cannot be loaded.
        """

    def unload(self) -> None:
        """Give back what ``load`` loaded; the next call loads it again. Caches stay."""

    def vision(self, images: NDArray[np.uint8], units: Array | None = None) -> dict[str, Array]:
        """Run the vision graph on uint8 [n, F, H, W, 3]; its outputs by contract name, floats as float32.

        ``units`` is what the plan's graph takes beside the image (``graph_io.vision_inputs``): bool [n, H0, W0], units
        of padding, where ``Plan.vision_padding``; int32 [n, K], the units to compute, where it is a bucket. None marks
        no padding, and takes the first units.

        ``visual_embeds`` may stay on a device: it has a shape, a length, takes ``[None]``, and ``numpy.asarray`` gives
        its values.
        """
        raise NotImplementedError

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], Cache]:
        """Run the decoder graph on inputs by contract name; its outputs except the cache, and the cache.

        ``cache`` None is an empty one. It stays valid: a later call may continue from it again.
        """
        raise NotImplementedError

    def sample(
        self, feeds: Mapping[str, Array], cache: Cache | None, after: PendingToken | None
    ) -> tuple[PendingToken, Cache]:
        """As ``decode``, but returns before the token that the device picks is there (``Capabilities.picks_tokens``).

        Args:
            feeds: See ``decode``; ``input_ids`` count only without ``after``.
            cache: See ``decode``.
            after: The token this call goes on with, which need not have come to the host.
        """
        raise NotImplementedError

    def open_slots(self, graphs: Any) -> Slots | None:
        """Room for several conversations in this engine's own memory; None where ``HostSlots`` hold its caches.

        ``graphs``: the ``Graphs`` of the plan, which make the decoder's inputs.
        """
        return None

    def adopt(self, values: Sequence[Array]) -> Cache:
        """The host cache of states in graph order, floats float32, in the types that the decoder takes."""
        raise NotImplementedError

    def for_steps(self, cache: Cache) -> Cache:
        """A host cache as the engine that runs steps stores it."""
        return cache

    def ready(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """Decoder inputs that stay the same for many calls, as ``decode`` takes them in place of arrays."""
        return dict(arrays)

    def engine(self, feeds: Mapping[str, Array], cache: Cache | None) -> str:
        """Name and arithmetic of the engine that runs such a decoder call."""
        return f"{self.name} {self.arithmetic}".strip()

    def placement(self) -> dict[str, dict[str, int]]:
        """Nodes of each loaded graph by the device that runs them: ``{"decoder": {"CPU": 812}}``."""
        return {}

    def end_profiling(self) -> dict[str, str]:
        """Close the profiles of the loaded graphs: the files, by graph."""
        return {}


@dataclass(frozen=True)
class TokensPrompt:
    """Tokens of one slot that a decoder call reads, with their images.

    Args:
        token_ids: With a placeholder for each image of ``features``.
        features: What the encoder made of the images; None where every token is text.
        blocks: Images that belong together (``Request.blocks``).
        adapter: LoRA adapter of the conversation; None for the base model. What continues a slot keeps the slot's.
        position: Rotary position of the first token. Slots count positions themselves.
        order: Its logical place, likewise.
        pictures: Images of a prompt whose room is asked for before they are encoded.
    """

    token_ids: Sequence[int]
    features: VisualFeatures | None = None
    blocks: Mapping[int, Block] = field(default_factory=dict)
    adapter: Adapter | None = None
    position: int = 0
    order: int = 0
    pictures: int = 0

    @property
    def images(self) -> int:
        """Images that it shows."""
        return self.pictures if self.features is None else len(self.features.positions)

    @property
    def text(self) -> int:
        """Text tokens."""
        return len(self.token_ids) - self.images


class Joined(NamedTuple):
    """What running a prompt gave.

    Args:
        slot: The conversation.
        logits: Of the prompt's last text token, float32 [vocab].
        kept: For each pruning layer with a budget above 0, int64 [G, keep]: see ``Step.kept``.
    """

    slot: int
    logits: NDArray[np.float32]
    kept: dict[int, NDArray[np.int64]]


class StepResult(NamedTuple):
    """What a step gave a slot.

    Args:
        token: The most likely next token, where the decoder itself picked one.
        logit: That token's; None where all logits are there and the host is to choose. Not finite where logits are not.
        logits: After each of the slot's tokens, float32 [T, vocab], as a chooser takes it [vocab]; None where nobody
            asked.
        failed: What ended the slot; the others of the step go on.
    """

    token: int | None
    logit: float | None
    logits: NDArray[np.float32] | None = None
    failed: Exception | None = None


class PendingToken(ABC):
    """The most likely next token, which the decoder picked where its logits are. It may still be on its way."""

    @abstractmethod
    def read(self) -> tuple[int, float]:
        """Wait for it: its id, and its logit. That is not finite where the logits are not."""


class PendingStep(Protocol):
    """A step that may still be under way."""

    def read(self) -> dict[int, StepResult]:
        """Wait for it: what it gave, by slot."""


class Slots(Protocol):
    """Conversations side by side in one decoder. They own positions, logical places, text masks and caches.

    One thread calls them. A call that raises leaves no slot behind and changes no other.
    """

    @property
    def held(self) -> Collection[int]:
        """Slots that have joined and not left."""

    def room(self, prompts: Sequence[TokensPrompt]) -> int:
        """How many of ``prompts``, from the first on, may join now in one call; at least one into empty slots.

        Counts slots, groups of images, text capacity and the ranks of adapters; ``join`` says why one does not fit.
        """

    def answer_room(self, text: int) -> int | None:
        """Tokens that an answer to a prompt of ``text`` text tokens may have here; None where nothing bounds it."""

    def join(self, prompts: Sequence[TokensPrompt]) -> list[Joined]:
        """Run prompts from their beginning, each in a slot of its own.

        Raises:
            UsageError: They do not fit.
            MachineError: There is no memory for the caches.
        """

    def restore(self, snapshot: State) -> int:
        """A slot that stands where ``snapshot`` stands; the snapshot stays valid.

        Raises:
            UsageError: There is no room.
        """

    def extend(self, slot: int, prompt: TokensPrompt) -> Joined:
        """Run the prompt graph behind what a slot holds: a chat's next turn, or what follows a kept prefix."""

    def step(self, tokens: Mapping[int, Sequence[int]], logits: bool = True) -> PendingStep:
        """Put a step on its way, and return before it has ended.

        Args:
            tokens: For every slot that is held, the token to go on with, drafted ones behind it, or ``DEVICE_CHOICE``.
                Several tokens take ``Capabilities.host_caches``; all slots or none say ``DEVICE_CHOICE``.
            logits: Bring all logits to the host, not the largest alone, where the device picks tokens.
        """

    def accept(self, slot: int, count: int) -> None:
        """Let ``count`` of the tokens that the last step fed a slot stand; without it, all of them do."""

    def can_choose(self, slots: Collection[int]) -> bool:
        """Whether ``DEVICE_CHOICE`` may continue exactly these slots: the last step chose for them, none ran since."""

    def snapshot(self, slot: int) -> State:
        """Where a slot stands, for ``restore``. Later steps of the slot do not change it."""

    def leave(self, slot: int) -> None:
        """Forget a conversation; legal while a step is pending."""

    def nbytes(self, slot: int) -> float:
        """Bytes of a slot's share of the caches."""
