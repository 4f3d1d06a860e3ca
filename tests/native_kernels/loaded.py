"""The loaded native library: its version, its calls, and the scratch memory of one call."""

from __future__ import annotations

import ctypes
from pathlib import Path

from luvc_export.errors import MachineError, UsageError
from native_kernels.abi import ABI_MAJOR, ABI_MINOR, CUDA_ERROR, DEVICES, NO_CUDA, WORKSPACE_ALIGNMENT
from native_kernels.dlpack import Tensor, borrow
from native_kernels.library import BUILD_COMMAND, LIBRARY_NAME, find


class Loaded:
    """``libluvc_native.so`` in this process.

    Args:
        library: Its path, or None to look for it.

    Raises:
        MachineError: No library was found, it cannot be loaded, or its ABI is another.
    """

    def __init__(self, library: Path | str | None) -> None:
        self.path = find(LIBRARY_NAME, library)
        try:
            self._library = ctypes.CDLL(str(self.path))
        except OSError as error:
            raise MachineError("the native library cannot be loaded", where=str(self.path), got=error) from error
        self._library.luvc_abi_version.restype = ctypes.c_uint32
        self._library.luvc_status_string.restype = ctypes.c_char_p
        version = self._library.luvc_abi_version()
        if version >> 16 != ABI_MAJOR or version & 0xFFFF < ABI_MINOR:
            raise MachineError(
                "the native library speaks another ABI",
                where=str(self.path),
                got=f"{version >> 16}.{version & 0xFFFF}",
                expected=f"{ABI_MAJOR}.{ABI_MINOR} or a later {ABI_MAJOR}.x",
                fix=f"rebuild it: {BUILD_COMMAND}",
            )

    @property
    def has_cuda(self) -> bool:
        """Whether it was built with CUDA kernels."""
        return bool(self._library.luvc_has_cuda())

    def run(
        self,
        name: str,
        shape: ctypes.Structure,
        tensors: ctypes.Structure,
        device: str,
        workspace: Tensor | None,
        stream: int,
    ) -> None:
        """Call ``name`` where its tensors lie, with scratch memory of the size it asks for."""
        needed = ctypes.c_size_t()
        self.call(f"{name}_workspace", ctypes.byref(shape), DEVICES[device], ctypes.byref(needed))
        work = Workspace(needed.value, workspace, device, stream)
        tail = (ctypes.c_void_p(stream),) if device == "cuda" else ()
        suffix = "cuda" if device == "cuda" else "host"
        self.call(f"{name}_{suffix}", ctypes.byref(shape), ctypes.byref(tensors), *work.arguments, *tail)

    def call(self, name: str, *arguments: object) -> None:
        """Call ``name``.

        Raises:
            UsageError: The library refuses an argument.
            MachineError: There are no CUDA kernels, or the launch failed.
        """
        status: int = self._library[name](*arguments)
        if status == 0:
            return
        text = self._library.luvc_status_string(status).decode()
        if status in (NO_CUDA, CUDA_ERROR):
            raise MachineError(text, where=name, fix="build a CUDA preset, see plugins/README.md")
        raise UsageError(text, where=name)


class Workspace:
    """Scratch memory of one call: the caller's, or on the host one of its own."""

    def __init__(self, needed: int, tensor: Tensor | None, device: str, stream: int) -> None:
        if tensor is not None:
            view = borrow("workspace", tensor, stream)
            view.expect(view.shape, ("uint8",), device)
            self.owner: object = view
            address, size = view.address, view.shape[0] if len(view.shape) == 1 else 0
        elif device == "cpu":
            buffer = ctypes.create_string_buffer(needed + WORKSPACE_ALIGNMENT)
            self.owner = buffer
            address, size = -(-ctypes.addressof(buffer) // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT, needed
        else:
            fix = f"pass workspace=, a uint8 tensor of {needed} bytes on the GPU"
            raise UsageError("a call on the GPU needs a workspace", where="workspace", fix=fix)
        self.arguments = (ctypes.c_void_p(address), ctypes.c_size_t(size))
