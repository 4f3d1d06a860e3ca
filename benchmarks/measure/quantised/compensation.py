"""Memory of GPTQ's rounding on a 3B model's largest weight: ``python benchmarks/measure/quantised/compensation.py``.

A weight of 11,008 x 2,048 (Qwen2.5-VL-3B's MLP) and 1,024 rows of what enters it, random: its K x K matrix is parted
where it has more than ``compensation.LARGEST`` rows. Prints what the process held at most beyond both.
"""

from __future__ import annotations

import numpy as np

from luvc_export.calibration.quantise import blocks
from luvc_export.calibration.quantise.blocks import compensated
from luvc_export.runtime import memory

ROWS, COLUMNS, SAMPLE = 11_008, 2_048, 1_024


def main() -> None:
    """Round it, and print."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((ROWS, COLUMNS), np.float32) * 0.02
    form, sample = blocks.int4(weight), random.standard_normal((SAMPLE, ROWS), np.float32)
    assert form is not None
    before = memory.anonymous_bytes() or 0
    compensated(weight, form, sample)
    print(f"{ROWS} x {COLUMNS}: {((memory.peak_bytes() or 0) - before) / 2**30:.2f} GiB at the peak, beyond the weight")


if __name__ == "__main__":
    main()
