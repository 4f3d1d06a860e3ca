"""The CUDA driver through ctypes: memory, streams, events and graphs."""
