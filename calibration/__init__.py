"""Data-driven side: parity, baselines, quantisation ranges and budgets from data."""

if __name__ != "luvc_export.calibration":
    raise ImportError(
        "import luvc_export.calibration instead of calibration: the top-level folder is only where the source lies"
    )
