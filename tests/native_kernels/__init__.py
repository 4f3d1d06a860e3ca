"""The native kernels of ``plugins/`` from Python: ctypes on their C ABI, DLPack for tensors, no torch extension.

Any object with ``__dlpack__`` and ``__dlpack_device__`` is a tensor here: numpy arrays, torch tensors on the CPU or a
GPU, CuPy arrays. The caller makes the outputs; they are written in place. Where the tensors lie decides whether the
host reference or the CUDA kernels run. The product calls the same kernels as TensorRT plugins; this is how tests and
``plugins/gpu-check.sh`` call them. ``PYTHONPATH=.:tests python -m native_kernels`` in a checkout says what was found,
with ``--bench`` it times the kernels on this machine's GPU.
"""

from luvc_export.core.operators import SCORES
from native_kernels.kernels import Native, Payload
from native_kernels.library import LIBRARY_NAME, LIBRARY_VARIABLE, PLUGINS_NAME, find, load_plugins

__all__ = [
    "LIBRARY_NAME",
    "LIBRARY_VARIABLE",
    "PLUGINS_NAME",
    "SCORES",
    "Native",
    "Payload",
    "find",
    "load_plugins",
]
