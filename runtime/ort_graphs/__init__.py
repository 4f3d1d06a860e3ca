"""Graphs as ONNX Runtime is given them in place of a bundle's: the same numbers, sooner or in less memory."""
