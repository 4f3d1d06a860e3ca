"""The first Python of ``install-and-verify``: standard library only, and any Python 3.8 reads it.

Unpacks the pack's wheels beside it, checks that everything is there that the runtime imports, then hands over to
``luvc_export.packing.on_device``. Needs neither pip nor venv, which JetPack's Python may lack, nor the network.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"
_USAGE, _MACHINE, _INTERRUPTED = 2, 3, 130
_EXTRA = {"cpu": {"distribution": "onnxruntime", "module": "onnxruntime", "at_least": "1.18"}}


def main() -> int:
    """Run; the exit code: 0 passed, 1 a case failed, 2 a damaged pack or bad usage, 3 this device cannot, 70 a bug."""
    arguments = _arguments()
    try:
        pack = _read()
        skipped = _unpack(pack)
        sys.path.insert(0, str(SITE))
        importlib.invalidate_caches()
        _check_modules(pack, arguments.backend, skipped)
        from luvc_export.packing.on_device import install_and_verify

        return install_and_verify(HERE, arguments.backend, arguments.root, arguments.rebuild)
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        return _INTERRUPTED


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="install-and-verify",
        description="Check this device, build the engines, answer the stored cases and compare with the reference.",
        epilog="Exit codes: 0 passed, 1 a case failed, 2 damaged pack or bad usage, 3 this device cannot, 70 a bug.",
    )
    parser.add_argument(
        "--backend",
        choices=("tensorrt", "cpu"),
        default="tensorrt",
        help="cpu: ONNX Runtime answers with the pack's graphs and no engine is built. It shows that graphs, weights, "
        "cases and runtime are in order, and says nothing of TensorRT",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="read the device's release files below DIR"
    )
    parser.add_argument("--rebuild", action="store_true", help="build engines that are there already once more")
    return parser.parse_args()


def _read() -> dict[str, Any]:
    where, fix = HERE / "pack.json", "copy the pack again, or make it again"
    try:
        pack = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _stop(_USAGE, "this is not a pack", where, str(error), fix)
    if not isinstance(pack, dict) or not {"wheels", "requirements", "files", "python"} <= set(pack):
        _stop(_USAGE, "this is not a pack", where, "fields are missing", fix)
    return pack


def _unpack(pack: dict[str, Any]) -> list[str]:
    """Unpack what this Python takes to ``site``, whole or not at all; return the wheels it does not take."""
    wheels = [HERE / "wheels" / name for name in pack["wheels"]]
    for path in wheels:
        expected = pack["files"].get("wheels/" + path.name, {}).get("sha256")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            _stop(
                _USAGE,
                "a wheel of the pack is missing or has changed",
                path,
                "its hash is another",
                "copy the pack again",
            )
    taken = [path for path in wheels if _takes(path.name)]
    key = "\n".join([sys.version, *(pack["files"]["wheels/" + path.name]["sha256"] for path in taken)])
    mark = SITE / ".unpacked"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
        scratch = Path(tempfile.mkdtemp(prefix=".site.", dir=str(HERE)))
        try:
            for path in taken:
                with zipfile.ZipFile(str(path)) as archive:
                    archive.extractall(str(scratch))
            (scratch / mark.name).write_text(key, encoding="utf-8")
            shutil.rmtree(str(SITE), ignore_errors=True)
            scratch.rename(SITE)
        finally:
            shutil.rmtree(str(scratch), ignore_errors=True)
    return [path.name for path in wheels if path not in taken]


def _takes(name: str) -> bool:
    """Whether this Python and machine take a wheel, by its name."""
    pythons, abis, platforms = name[: -len(".whl")].split("-")[-3:]
    minor = sys.version_info[1]
    numbers = [int(found.group(1)) for found in re.finditer(r"cp3(\d+)", pythons)]
    python = "py3" in pythons.split(".") or minor in numbers
    python = python or ("abi3" in abis.split(".") and any(number <= minor for number in numbers))
    return python and (platforms == "any" or platform.machine() in platforms)


def _check_modules(pack: dict[str, Any], backend: str, skipped: list[str]) -> None:
    extra = [_EXTRA[backend]] if backend in _EXTRA else []
    problems = [problem for item in [*pack["requirements"], *extra] for problem in _module_problem(item)]
    if not problems:
        return
    here = "Python {}.{} on {}".format(*sys.version_info[:2], platform.machine())
    got = "; ".join(problems) + f" ({here})"
    if skipped:
        got += f"; wheels this Python does not take: {', '.join(skipped)}"
    expected = f"a pack with the wheels of Python {pack['python']}"
    _stop(_MACHINE, "Python packages are missing", HERE / "wheels", got, f"{expected}: luvc-export pack --wheels DIR")


def _module_problem(item: dict[str, str]) -> list[str]:
    if importlib.util.find_spec(item["module"]) is None:
        return ["no " + item["distribution"]]
    try:
        have = importlib.metadata.version(item["distribution"])
    except importlib.metadata.PackageNotFoundError:
        return []  # a module without metadata, such as one from a system package: nothing says it is too old
    return (
        []
        if _numbers(have) >= _numbers(item["at_least"])
        else [f"{item['distribution']} {have} is older than {item['at_least']}"]
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _stop(code: int, what: str, where: Path, got: str, fix: str) -> NoReturn:
    print(f"error: {what}\n  where: {where}\n  got: {got}\n  fix: {fix}", file=sys.stderr)
    print("NOT VERIFIED")
    sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
