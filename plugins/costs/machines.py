"""Three GPUs by their data sheets, and the least time launches take there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from costs.kernels import Launch


@dataclass(frozen=True)
class Machine:
    """A GPU.

    Attributes:
        name: In tables.
        arch: ``sm_NN``.
        bandwidth: Bytes a second of device memory.
        tf32: Dense floating-point operations a second of tensor cores in TF32.
        source: Of both.
    """

    name: str
    arch: str
    bandwidth: float
    tf32: float
    source: str


MACHINES = (
    Machine(
        "Orin",
        "sm_87",
        204.8e9,
        21.3e12,
        "Jetson AGX Orin Series Technical Brief 1.2: 204.8 GB/s; 170 sparse INT8 TOPS of the GPU, so 85 dense,"
        " and TF32 a quarter of that",
    ),
    Machine("RTX 4090", "sm_89", 1008e9, 82.6e12, "NVIDIA Ada GPU Architecture white paper, appendix A"),
    Machine(
        "H100 SXM",
        "sm_90",
        3350e9,
        494.7e12,
        "NVIDIA H100 data sheet: 3.35 TB/s; 989.4 TFLOPS TF32 with sparsity, half of it dense",
    ),
)


def least_seconds(launches: Sequence[Launch], machine: Machine) -> float:
    """Each launch takes what its bytes or its operations take, whichever is more; nothing else is counted."""
    return sum(max(each.moved / machine.bandwidth, 2 * each.products / machine.tf32) for each in launches)
