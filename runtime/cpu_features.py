"""What this CPU's instruction set has of what matters to matrix products, as its kernel says."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
#: Feature by the flag Linux lists (Documentation/arch/x86/cpuinfo.rst), widest first.
_FLAGS = {
    "amx_fp16": "AMX-FP16",
    "amx_bf16": "AMX-BF16",
    "amx_int8": "AMX-INT8",
    "avx512_fp16": "AVX512-FP16",
    "avx512_bf16": "AVX512-BF16",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}


def cpu_features() -> list[str]:
    """Names of the features, widest first; none where the system does not say."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [name for flag, name in _FLAGS.items() if flag in flags]
