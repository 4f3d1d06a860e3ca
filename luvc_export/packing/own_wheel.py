"""This package as a wheel, from the files that are running: the same whether it is installed or a checkout.

Format: packaging.python.org, "Binary distribution format". Only Python sources go in: the bundled checkpoint and
compiled libraries of this machine stay out.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

import luvc_export

#: The oldest time a zip file can hold: two wheels of the same sources are the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: luvc-export\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """Write the wheel into ``folder`` and return its path."""
    version = luvc_export.__version__
    info = f"luvc_export-{version}.dist-info"
    path = folder / f"luvc_export-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: luvc-export\nVersion: {version}\nRequires-Python: >=3.10\n"
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
    """Every Python source of the package, the four linked folders of a checkout too, by its name in the wheel."""
    root = Path(luvc_export.__file__).parent
    found = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            if name.endswith(".py"):
                path = Path(folder, name)
                found[f"{root.name}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return dict(sorted(found.items()))


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
