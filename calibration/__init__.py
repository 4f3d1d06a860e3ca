"""Data-driven side: parity, baselines, quantisation ranges and budgets from data."""

if __name__ != "luvc_export.calibration":
    raise ImportError("import luvc_export.calibration not calibration: the top-level folder only holds the source")
