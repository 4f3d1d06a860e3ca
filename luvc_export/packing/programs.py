"""What runs on a board, as a pack has it: the script, wheels, this package's own among them, and plugins."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import zipfile
from collections.abc import Sequence
from pathlib import Path

import luvc_export
from luvc_export.core.files.folders import copy_file, make_folder
from luvc_export.core.target import Target
from luvc_export.errors import UsageError
from luvc_export.packing import bootstrap, record, wheels
from luvc_export.packing.record import PLUGINS, WHEELS
from luvc_export.version import VERSION

#: The oldest time a zip file can hold: two wheels of the same sources are the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: luvc-export\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def given_wheels(folder: Path | None) -> list[Path]:
    """The wheels in the folder a user named, by name.

    Raises:
        UsageError: There is none, or a file has no wheel's name.
    """
    if folder is None:
        return []
    paths = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if not paths:
        got = "no wheel in it" if folder.is_dir() else "no such folder"
        raise UsageError("there are no wheels", where=f"--wheels {folder}", got=got, expected="*.whl")
    for path in paths:
        wheels.parse(path.name)
    return paths


def write_wheel(folder: Path) -> Path:
    """Write the wheel into ``folder`` and return its path."""
    info = f"luvc_export-{VERSION}.dist-info"
    path = folder / f"luvc_export-{VERSION}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: luvc-export\nVersion: {VERSION}\nRequires-Python: >=3.10\n"
    files = {**sources(), f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": _WHEEL.encode()}
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return path


def sources() -> dict[str, bytes]:
    """Every Python source, of the linked folders of a checkout too, and tables beside modules, by name in the wheel."""
    root = Path(luvc_export.__file__).parent
    files = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py" or (path.suffix == ".json" and path.with_name("__init__.py").is_file()):
                files[f"{root.name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return dict(sorted(files.items()))


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


#: ``e_machine`` of ELF files (elf.h: EM_X86_64, EM_AARCH64), at byte 18.
_MACHINES = {62: "x86_64", 183: "aarch64"}
_HEADER = 20


def check_plugins(library: Path | None, target: Target) -> None:
    """Check that the plugin library, if there is one, is for the target's machine.

    Raises:
        UsageError: It is no shared library, or one for another machine.
    """
    if library is None:
        return
    with library.open("rb") as file:
        head = file.read(_HEADER)
    whole = len(head) == _HEADER and head[:4] == b"\x7fELF"
    machine = _MACHINES.get(int.from_bytes(head[18:20], "little"), "another machine") if whole else "no ELF file"
    if machine != target.device.machine:
        raise UsageError(
            "this plugin library is not for the board",
            where=f"--dynamicPlugins {library}",
            got=machine,
            expected=str(target.device.machine),
            fix="build it on the board with its TensorRT (plugins/README.md) and bring it here, or leave the option "
            "out: engines build without plugins",
        )


def put_programs(folder: Path, plugins: Path | None, wheels_given: Sequence[Path]) -> Path:
    """Plugins, wheels, this package's own and what installs and verifies; returns the package's wheel."""
    if plugins is not None:
        copy_file(plugins, folder / PLUGINS, links=True)
    make_folder(folder / WHEELS)
    for wheel in wheels_given:
        copy_file(wheel, folder / WHEELS / wheel.name, links=True)
    for name, source in ((record.BOOTSTRAP, Path(bootstrap.__file__).name), (record.SCRIPT, record.SCRIPT)):
        copy_file(Path(bootstrap.__file__).with_name(source), folder / name, links=True)
    (folder / record.SCRIPT).chmod(0o755)
    return write_wheel(folder / WHEELS)


def tools() -> dict[str, str]:
    """What wrote a pack, and answered for it."""
    import onnxruntime

    return {"luvc-export": VERSION, "python": platform.python_version(), "onnxruntime": str(onnxruntime.__version__)}
