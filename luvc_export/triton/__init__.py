"""A bundle as a model of NVIDIA Triton: the repository, and what Triton's Python back-end runs. See docs/scale.md."""
