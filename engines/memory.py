"""Memory of a pair of engines, predicted before they are built, and whether a target has it.

weights + KV cache of every layer + activations + factors of adapters; beside them, while building, the workspace, and
while loading, the plan file. Tests hold the prediction against what TensorRT-RTX says of the engines it built.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luvc_export.bundle.manifest import Footprint
from luvc_export.core.budgets import kv_bytes
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import DecoderShape, ScaleType, State, in_codes
from luvc_export.core.target import Kv, Precision, Target
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import PlanError

#: Scratch memory of an engine of one MatMul as TensorRT-RTX 1.7.1 reports it: 8,192,000 bytes.
_SCRATCH = 8_192_000
#: As often it is taken where rows of a batch have slots for adapters: their products run beside each other.
_BESIDE = 3
#: Tensors whose sizes are not known, and padding: 1.25 covers what the tests build (tests/engines/test_memory.py).
_MARGIN = 1.25
#: What the system leaves of the memory a device is sold with: driver and context; or kernel, carve-outs and desktop
#: too where CPU and GPU share it. Assumed, on the careful side; a device's own figure is better: --device-memory.
_USABLE = {False: 0.9, True: 0.8}
#: Host memory of a build beside the libraries: 0.93 GB of weights took 3.2 GB with TensorRT-RTX 1.7.1.
_BUILDING = 3.0
_LIBRARIES = 512 << 20
#: ``--kv-mib`` counts this many text tokens.
_TEXT = 64


@dataclass(frozen=True)
class KvCacheSpec:
    """The KV cache of a build: its plan, sizes, element type and form, and whether it is in codes."""

    plan: Plan
    shape: DecoderShape
    capacity: Capacity
    precision: Precision
    kv: Kv
    codes: bool = False

    @property
    def states(self) -> tuple[State, ...]:
        """All that a conversation consists of."""
        scales: ScaleType = "float32" if self.precision == "fp32" else "float16"
        return in_codes(self.shape.kept, scales) if self.codes else self.shape.kept

    @property
    def rows(self) -> tuple[int, ...]:
        """Bytes of one token in each layer, in every row of a batch; twice where past and present are there at once.

        A batch of several has one row more: a prompt that joins others runs by itself, and is copied in.
        """
        full, empty = self._bytes((1,) * self.shape.cached), self._bytes((0,) * self.shape.cached)
        return tuple(one - none for one, none in zip(full, empty, strict=True))

    @property
    def fixed(self) -> int:
        """Bytes of states that cost the same at every length."""
        return sum(self._bytes((0,) * self.shape.cached))

    def _bytes(self, rows: Sequence[int]) -> tuple[int, ...]:
        """Bytes of all conversations in each layer with so many cached rows."""
        total, element = [0] * self.shape.cached, 4 if self.precision == "fp32" else 2
        for state in self.states:
            once = state.in_cache if self.kv == "inplace" else state.axis is not None
            copies = 1 if self.kv in ("inplace", "append") and once else 2
            conversations = self.capacity.batch * copies + (self.capacity.batch > 1)
            total[state.layer] += conversations * state.bytes(rows[state.layer], element)
        return tuple(total)

    @property
    def text(self) -> int:
        """Bytes of all text tokens in all layers."""
        return self.capacity.text * sum(self.rows)

    @property
    def bytes(self) -> int:
        """Bytes of all layers, full."""
        return sum(self._bytes(self.plan.cache_rows(self.capacity.groups, self.capacity.text)))


def predict(
    weights: tuple[int, int], cache: KvCacheSpec, peaks: tuple[int, int], workspace_mib: int, adapters: int = 0
) -> Footprint:
    """Memory of vision and decoder engine together; they run one after the other and share activations.

    Args:
        weights: Weight bytes of vision and decoder.
        cache: The KV cache.
        peaks: Largest bytes of live tensors of each (``export.surgeon.peak_memory``).
        workspace_mib: Scratch memory a build may use.
        adapters: Bytes of the factors of adapters that are kept (``LoraSlots.kept_bytes``).
    """
    scratch = _SCRATCH * (_BESIDE if cache.capacity.adapters and cache.capacity.batch > 1 else 1)
    return Footprint(
        weights=sum(weights),
        kv=cache.bytes,
        activations=scratch + round(_MARGIN * max(peaks)),
        workspace=workspace_mib << 20,
        loading=max(weights),
        adapters=adapters,
    )


def needed(footprint: Footprint, target: Target) -> int:
    """Bytes the target must have free."""
    return footprint.peak if target.device.unified else footprint.running


def building(footprint: Footprint) -> int:
    """Host bytes a build needs: the graph's weights, the builder's copies, the plan."""
    return _LIBRARIES + round(_BUILDING * footprint.loading)


def usable(target: Target, device_memory_gib: float | None = None) -> int | None:
    """Bytes of the largest variant of a device, what the system takes aside; None where no size is known."""
    if device_memory_gib is not None:
        return round(device_memory_gib * 2**30)
    sizes = target.device.memory_gib
    return round(max(sizes) * 2**30 * _USABLE[target.device.unified]) if sizes else None


def smallest_fit(footprint: Footprint, target: Target) -> int | None:
    """GiB of the smallest variant it fits on; None if on none."""
    share = _USABLE[target.device.unified] * 2**30
    return next((size for size in target.device.memory_gib if needed(footprint, target) <= size * share), None)


def check_fits(
    footprint: Footprint,
    target: Target,
    cache: KvCacheSpec,
    device_memory_gib: float | None = None,
    of_batch: Callable[[int], Footprint] | None = None,
) -> None:
    """Refuse engines the device cannot hold, and say what it could.

    ``device_memory_gib`` None is the device's largest variant; ``of_batch`` predicts for another number of rows.

    Raises:
        PlanError: The prediction is more than the target has; names the largest batch that fits, if one does.
    """
    have, want = usable(target, device_memory_gib), needed(footprint, target)
    if have is None or want <= have:
        return
    rows = largest_batch(of_batch, cache.capacity.batch - 1, target, have) if of_batch else 0
    parts = ["weights", "kv", "activations"]
    parts += [name for name in ("adapters",) if footprint.adapters] + ["loading"] * target.device.unified
    raise PlanError(
        "this plan does not fit on the target",
        where=f"{target.title}, {device_memory_gib or max(target.device.memory_gib):.4g} GiB",
        got=f"{_mib(want)} needed: " + ", ".join(f"{name} {_mib(getattr(footprint, name))}" for name in parts),
        expected=f"at most {_mib(have)}, what the system takes aside",
        fix=f"--batch {rows} fits"
        if rows
        else _advice(footprint, have - (footprint.loading if target.device.unified else 0), have, cache),
    )


def largest_batch(of_batch: Callable[[int], Footprint], most: int, target: Target, have: int) -> int:
    """Largest batch of at most ``most`` rows whose engines take at most ``have`` bytes; 0 if not even one row does."""
    return bisect_right(range(1, most + 1), have, key=lambda rows: needed(of_batch(rows), target))


def _advice(footprint: Footprint, while_loading: int, have: int, cache: KvCacheSpec) -> str:
    """The budget that would fit, if one would: fewer visual tokens, else less text."""
    room = have - (footprint.running - footprint.kv) - cache.fixed
    if footprint.weights > while_loading or room < sum(cache.rows):
        return "no budget would fit: weights alone are too much; quantise them, or choose another target"
    if room >= cache.text:
        token = sum(cache.rows) / len(cache.rows)
        tokens = (room - cache.text) // token // cache.capacity.groups + len(cache.rows) * _TEXT
        one, none = (sum(kv_bytes(cache.shape, (rows,) * len(cache.rows), 0, codes=cache.codes)) for rows in (1, 0))
        mean = (one - none) / len(cache.rows)
        tenths = int(tokens * mean * 10 // 2**20)
        return f"a plan of luvc-export export --kv-mib {tenths / 10} fits, with {cache.capacity.text} text tokens"
    return (
        f"no budget of visual tokens would fit; {room // sum(cache.rows)} text tokens do, without any:"
        " lower --text-capacity"
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
