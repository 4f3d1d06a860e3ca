"""The native kernels of ``plugins/`` from Python: ctypes on their C ABI, DLPack for tensors, no torch extension.

Any object with ``__dlpack__`` and ``__dlpack_device__`` is a tensor here: numpy arrays, torch tensors on the CPU or a
GPU, CuPy arrays. The caller makes the outputs; they are written in place. Where the tensors lie decides whether the
host reference or the CUDA kernels run. ``python -m luvc_export.engines.native`` says what was found, ``--bench`` times
the kernels on this machine's GPU.
"""

from luvc_export.core.operators import SCORES
from luvc_export.engines.native.kernels import Native, Payload
from luvc_export.engines.native.library import LIBRARY_NAME, LIBRARY_VARIABLE, PLUGINS_NAME, find, load_plugins

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
