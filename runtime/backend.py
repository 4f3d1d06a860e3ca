"""What a session asks of a back-end, so that ONNX Runtime and TensorRT are interchangeable."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.shapes import State

Array = NDArray[Any]


class Cache(Protocol):
    """All states of a conversation (``DecoderShape.kept``), where the back-end keeps them.

    Never changed: a step makes a new one.
    """

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows (visual and text) of each layer's keys; 0 where a layer has none."""

    @property
    def nbytes(self) -> int:
        """Bytes of all layers together."""


class GraphCalls(Protocol):
    """Runs the two graphs of one plan: all that answering a question takes."""

    @property
    def largest_batch(self) -> int | None:
        """Rows that one call of ``decode`` takes; None for any number."""

    def vision(self, images: NDArray[np.uint8], beside: Array | None = None) -> dict[str, Array]:
        """Run the vision graph on uint8 [n, F, H, W, 3]; its outputs by contract name, floats as float32.

        ``beside`` is what the plan's graph takes beside the image (``graph_io.vision_inputs``): bool [n, H0, W0], units
        of padding, where ``Plan.vision_padding``; int32 [n, K], the units to compute, where it is a bucket. None marks
        no padding, and takes the first units.

        ``visual_embeds`` may stay on a device: it has a shape, a length, takes ``[None]``, and ``numpy.asarray`` gives
        its values.
        """

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], Cache]:
        """Run the decoder graph on inputs by contract name; its outputs except the cache, and the cache.

        ``cache`` None is an empty one. It stays valid: a later call may continue from it again.
        """


class Backend(GraphCalls, Protocol):
    """Loads the graphs of one plan, runs them, and says what it is."""

    @property
    def name(self) -> str:
        """``cpu``, ``cuda``, ``openvino:CPU`` or ``tensorrt``."""

    @property
    def arithmetic(self) -> str:
        """What products are computed in: ``fp32``, ``fp16`` or ``bf16``."""

    def load(self, images: bool = True) -> None:
        """Load what is not loaded yet; the vision graph only for ``images``. The other methods do it by themselves.

        Raises:
            MachineError: The machine lacks the back-end, a device or memory.
            BundleError: A graph or its weights cannot be loaded.
        """

    def placement(self) -> dict[str, dict[str, int]]:
        """Nodes of each loaded graph by the device that runs them: ``{"decoder": {"CPU": 812}}``."""


@runtime_checkable
class Unloading(Protocol):
    """A back-end that can give back what it loaded."""

    @property
    def packs_weights(self) -> bool:
        """Whether each plan's graphs hold weights of their own, so that few are loaded at a time."""

    @property
    def keeps_buckets(self) -> bool:
        """Whether a plan and its buckets, which load slowly, stay loaded while memory lasts."""

    def unload(self) -> None:
        """Give back what ``load`` loaded; the next call loads it again."""


class PendingToken(Protocol):
    """The most likely next token, which the decoder picked where its logits are. It may still be on its way."""

    def read(self) -> tuple[int, float]:
        """Wait for it: its id, and its logit. That is not finite where the logits are not."""


@runtime_checkable
class DeviceSampler(Protocol):
    """A back-end whose decoder may pick tokens itself: greedy decoding leaves the logits where they are."""

    @property
    def samples(self) -> bool:
        """Whether this decoder does."""

    def sample(
        self, feeds: Mapping[str, Array], cache: Cache | None, after: PendingToken | None
    ) -> tuple[PendingToken, Cache]:
        """As ``Backend.decode``, but returns before the token is there.

        Args:
            feeds: See ``Backend.decode``; ``input_ids`` count only without ``after``.
            cache: See ``Backend.decode``.
            after: The token this call goes on with, which need not have come to the host.
        """


class RowToken(NamedTuple):
    """What a row goes on with: a token and its place. ``token`` None: the one that the step before chose."""

    token: int | None
    position: int
    order: int


class RowStep(NamedTuple):
    """What a step gave a row.

    Args:
        token: Its most likely next token, where the decoder itself picked one.
        logit: That token's; None where all logits are there and the host is to choose.
        logits: All of them, float32 [vocab]; None where nobody asked.
    """

    token: int | None
    logit: float | None
    logits: NDArray[np.float32] | None = None


class PendingRows(Protocol):
    """A step of several rows, which may still be under way."""

    def read(self) -> dict[int, RowStep]:
        """Wait for it: what it gave, by slot."""


class Rows(Protocol):
    """Conversations side by side in one decoder: a row joins with its prompt, takes a token a step, and leaves.

    One thread calls it. A slot that was left is used again.
    """

    @property
    def capacity(self) -> int:
        """Rows at most."""

    @property
    def text_capacity(self) -> int:
        """Text tokens of a row at most, prompt and answer."""

    @property
    def ranks(self) -> int:
        """Ranks of the adapters of all rows together, at most; 0 where the engines have no slots for them."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's caches."""

    def room(self, groups: int, text: int) -> int:
        """How many prompts of so many groups of images and at most so many text tokens may join now, in one call."""

    def join(self, feeds: Mapping[str, Array]) -> tuple[list[int], dict[str, Array]]:
        """Run prompts, at most ``room`` of them, and keep their caches.

        Args:
            feeds: Inputs of a first call of ``Backend.decode``: ``batching.feeds(..., all_logits=False)``.

        Returns:
            The slot of each, and the call's outputs.

        Raises:
            UsageError: They do not fit.
            MachineError: There is no memory for the caches of as many rows as there may be.
        """

    def holds_chosen(self, slots: Collection[int]) -> bool:
        """Whether the tokens that the last step chose are of these slots and still there: nothing ran in between."""

    def step(
        self, tokens: Mapping[int, RowToken], logits: bool = False, beside: Mapping[str, Any] | None = None
    ) -> PendingRows:
        """Put a token of every row on its way, and return before it is there.

        Args:
            tokens: By slot, one for each row there is. Those of a step either all have ids or all have none.
            logits: Bring all logits to the host, not the largest alone.
            beside: Inputs that adapters are, of all slots up to the last that is taken (``Graphs.beside``).

        Raises:
            UsageError: A row is missing or has no room left, or the tokens of the step before are gone: rows joined.
        """

    def leave(self, slot: int) -> None:
        """Forget a row."""


@runtime_checkable
class RowBackend(Protocol):
    """A back-end whose decoder takes rows that join and leave."""

    def open_rows(self) -> Rows:
        """Room for rows, empty."""


@runtime_checkable
class RowPacker(Protocol):
    """A back-end whose caches of several rows can be taken apart and put together again."""

    @property
    def packs(self) -> bool:
        """Whether this one's can."""

    @property
    def states(self) -> tuple[State, ...]:
        """What its caches consist of, in graph order."""

    def unpack(self, cache: Cache) -> list[Array]:
        """States in graph order (``states``) as they are stored; not to be written to."""

    def pack(self, arrays: Sequence[Array]) -> Cache:
        """The cache of such arrays, which nobody writes to again."""


@runtime_checkable
class RowDropper(Protocol):
    """A back-end that can make a cache of some of another's rows."""

    @property
    def packs(self) -> bool:
        """Whether this one can, see ``RowPacker.packs``."""

    @property
    def states(self) -> tuple[State, ...]:
        """See ``RowPacker.states``."""

    def read_state(self, cache: Cache, number: int) -> Array:
        """One state of those in ``states``, as it is stored; not to be written to."""

    def keep_rows(self, cache: Cache, rows: Mapping[int, NDArray[np.int64]]) -> Cache:
        """The cache of these rows of some states, by number, ascending int64 [K]; all of the others."""
