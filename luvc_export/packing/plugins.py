"""The plugin library of a pack: built for the board's machine, which is told by the file before the board is asked."""

from __future__ import annotations

from pathlib import Path

from luvc_export.errors import UsageError
from luvc_export.target import Target

#: ``e_machine`` of ELF files (elf.h: EM_X86_64, EM_AARCH64), at byte 18.
_MACHINES = {62: "x86_64", 183: "aarch64"}
_HEADER = 20


def check(library: Path | None, target: Target) -> None:
    """Check that the plugin library, if there is one, is for the target's machine.

    Raises:
        UsageError: It is no shared library, or one for another machine.
    """
    if library is None:
        return
    with library.open("rb") as file:
        head = file.read(_HEADER)
    whole = len(head) == _HEADER and head[:4] == b"\x7fELF"
    found = _MACHINES.get(int.from_bytes(head[18:20], "little"), "another machine") if whole else "no ELF file"
    if found != target.device.machine:
        raise UsageError(
            "this plugin library is not for the board",
            where=f"--dynamicPlugins {library}",
            got=found,
            expected=str(target.device.machine),
            fix="build it on the board with its TensorRT (plugins/README.md) and bring it here, or leave the option "
            "out: engines build without plugins",
        )
