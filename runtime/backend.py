"""What a session asks of a back-end, so that ONNX Runtime and TensorRT are interchangeable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Cache(Protocol):
    """Keys and values of every layer, where the back-end keeps them. Never changed: a step makes a new one."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows (visual and text) of each layer."""

    @property
    def nbytes(self) -> int:
        """Bytes of all layers together."""


class Backend(Protocol):
    """Runs the two graphs of one plan."""

    @property
    def name(self) -> str:
        """``cpu``, ``cuda``, ``openvino:CPU`` or ``tensorrt``."""

    @property
    def arithmetic(self) -> str:
        """What products are computed in: ``fp32``, ``fp16`` or ``bf16``."""

    @property
    def largest_batch(self) -> int | None:
        """Rows that one call of ``decode`` takes; None for any number."""

    def load(self, images: bool = True) -> None:
        """Load what is not loaded yet; the vision graph only for ``images``. The other methods do it by themselves.

        Raises:
            MachineError: The machine lacks the back-end, a device or memory.
            BundleError: A graph or its weights cannot be loaded.
        """

    def vision(self, images: NDArray[np.uint8]) -> dict[str, Array]:
        """Run the vision graph on uint8 [n, F, H, W, 3]; its outputs by contract name, floats as float32.

        ``visual_embeds`` may stay on a device: it has a shape, a length, takes ``[None]``, and ``numpy.asarray`` gives
        its values.
        """

    def decode(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], Cache]:
        """Run the decoder graph on inputs by contract name; its outputs except the cache, and the cache.

        ``cache`` None is an empty one. It stays valid: a later call may continue from it again.
        """

    def placement(self) -> dict[str, dict[str, int]]:
        """Nodes of each loaded graph by the device that runs them: ``{"decoder": {"CPU": 812}}``."""


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
