"""ONNX Runtime, and what it is given in place of a bundle's decoder: the same numbers, sooner."""
