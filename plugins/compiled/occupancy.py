"""How many blocks of a kernel one multiprocessor holds at a time.

Limits: CUDA C++ Programming Guide 13.0, "Technical Specifications per Compute Capability", and ``cuda_occupancy.h`` of
the runtime's package, which has the blocks and how registers and shared memory are handed out.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
#: Registers of a multiprocessor, and how many a warp takes at once; its warps lie in four parts.
REGISTERS, REGISTER_STEP, PARTS = 65536, 256, 4
#: Shared memory is handed out in these bytes, and each block takes this much for the system.
SHARED_STEP, SHARED_RESERVED = 128, 1024


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor: threads, blocks and bytes of shared memory it holds."""

    threads: int
    blocks: int
    shared: int


LIMITS = {
    "sm_80": Limits(2048, 32, 164 << 10),
    "sm_86": Limits(1536, 16, 100 << 10),
    "sm_87": Limits(1536, 16, 164 << 10),
    "sm_89": Limits(1536, 24, 100 << 10),
    "sm_90": Limits(2048, 32, 228 << 10),
    "sm_100": Limits(2048, 32, 228 << 10),
    "sm_110": Limits(1536, 24, 228 << 10),
    "sm_120": Limits(1536, 24, 100 << 10),
}


def blocks_at_once(arch: str, threads: int, registers: int, shared: int) -> tuple[int, str]:
    """Blocks one multiprocessor holds, and what stands against more.

    Args:
        arch: ``sm_NN``, one of ``LIMITS``.
        threads: Of a block.
        registers: Of a thread.
        shared: Bytes of static shared memory of a block.
    """
    limits = LIMITS[arch]
    warps = -(-threads // WARP)
    of_a_warp = -(-registers * WARP // REGISTER_STEP) * REGISTER_STEP
    holds = REGISTERS // PARTS // of_a_warp * PARTS
    each = -(-(shared + SHARED_RESERVED) // SHARED_STEP) * SHARED_STEP
    counts = {
        "threads": limits.threads // (warps * WARP),
        "blocks": limits.blocks,
        "registers": holds // warps,
        "shared memory": limits.shared // each,
    }
    reason = min(counts, key=counts.__getitem__)
    return counts[reason], reason


def occupancy(arch: str, threads: int, registers: int, shared: int) -> float:
    """Share of the threads that a multiprocessor can hold."""
    return blocks_at_once(arch, threads, registers, shared)[0] * threads / LIMITS[arch].threads
