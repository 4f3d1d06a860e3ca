"""Fused nodes: their ONNX bodies, and the plugin calls that take their place."""
