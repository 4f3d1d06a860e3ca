"""Decoders of steps alone on ONNX Runtime: caches in two parts, and attention over both."""
