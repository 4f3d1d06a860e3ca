"""The first Python of ``install-and-verify``: standard library only, and any Python 3.8 reads it.

Unpacks the pack's wheels beside it, checks that everything is there that the runtime imports, then hands over to
``luvc_export.packing.on_device``. Needs neither pip nor venv, which JetPack's Python may lack, nor the network.
It runs as ``python3 -I``: no module that lies in the pack or in a folder of the user's is imported in place of a
standard one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
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
_MARK = ".unpacked"
_MOST_UNPACKED = 2**31
_LONGEST = 128
#: PEP 427: name-version[-build]-python-abi-platform.whl, and nothing that leaves the folder.
_WHEEL = re.compile(r"[A-Za-z0-9_.+!]{1,100}(-[A-Za-z0-9_.+!]{1,100}){4,5}[.]whl")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USAGE, _MACHINE, _BUG, _INTERRUPTED = 2, 3, 70, 130
_EXTRA = {"cpu": {"distribution": "onnxruntime", "module": "onnxruntime", "at_least": "1.20"}}


def main() -> int:
    """Run; the exit code: 0 passed, 1 a case failed, 2 a damaged pack or bad usage, 3 this device cannot, 70 a bug."""
    arguments = _arguments()
    sys.dont_write_bytecode = True  # site/ holds what the wheels hold, and is compared with them
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
    except Exception as error:  # not 1, which says that a case failed
        print(f"internal error: {type(error).__name__}: {error}\n  fix: report this line", file=sys.stderr)
        print("NOT VERIFIED")
        return _BUG


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
    except (OSError, ValueError, RecursionError) as error:
        _stop(_USAGE, "this is not a pack", where, str(error)[:200], fix)
    if not isinstance(pack, dict) or not {"wheels", "requirements", "files", "python"} <= set(pack):
        _stop(_USAGE, "this is not a pack", where, "fields are missing", fix)
    problem = _problem(pack)
    if problem:
        _stop(_USAGE, "this is not a pack", where, problem, fix)
    return pack


def _problem(pack: dict[str, Any]) -> str:
    """What is wrong with the fields that are read here, before luvc-export's own reader can be imported."""
    wheels, wanted, files = pack["wheels"], pack["requirements"], pack["files"]
    if not isinstance(wheels, list) or not all(isinstance(one, str) and _WHEEL.fullmatch(one) for one in wheels):
        return "wheels is no list of names of wheels"
    if not isinstance(pack["python"], str):
        return "python is no text"
    if not isinstance(files, dict) or not all(
        isinstance(one, dict) and isinstance(one.get("sha256"), str) for one in files.values()
    ):
        return "files has no hash for each"
    for one in wanted if isinstance(wanted, list) else [None]:
        texts = [one.get(name) for name in ("distribution", "module", "at_least")] if isinstance(one, dict) else [None]
        if not all(isinstance(text, str) and len(text) < _LONGEST for text in texts) or not _MODULE.fullmatch(
            str(texts[1])
        ):
            return "requirements is no list of distribution, module and at_least"
    return ""


def _unpack(pack: dict[str, Any]) -> list[str]:
    """Unpack what this Python takes to ``site``, whole or not at all; return the wheels it does not take.

    What an earlier run unpacked is compared with the wheels, byte for byte, before anything of it is imported.
    """
    wheels = {}
    for name in pack["wheels"]:
        path = HERE / "wheels" / name
        expected = pack["files"].get("wheels/" + name, {}).get("sha256")
        data = b"" if path.is_symlink() or path.parent.is_symlink() or not path.is_file() else path.read_bytes()
        if hashlib.sha256(data).hexdigest() != expected:
            _stop(
                _USAGE,
                "a wheel of the pack is missing or has changed",
                path,
                "its hash is another",
                "copy the pack again",
            )
        wheels[name] = data
    taken = {name: data for name, data in wheels.items() if _takes(name)}
    key = "\n".join([sys.version, *(pack["files"]["wheels/" + name]["sha256"] for name in taken)])
    mark = SITE / _MARK
    if SITE.is_symlink() or mark.is_symlink():
        _stop(_USAGE, "site/ is a link", SITE, "a link", "remove it")
    if mark.is_file() and mark.read_text(encoding="utf-8") == key:
        _compare(taken)
        return [name for name in wheels if name not in taken]
    scratch = Path(tempfile.mkdtemp(prefix=".site.", dir=str(HERE)))
    try:
        for data in taken.values():
            with _opened(data) as archive:
                if sum(item.file_size for item in archive.infolist()) > _MOST_UNPACKED:
                    _stop(_USAGE, "a wheel unpacks to more than it may", HERE / "wheels", "too large", "make it again")
                archive.extractall(str(scratch))
        (scratch / _MARK).write_text(key, encoding="utf-8")
        shutil.rmtree(str(SITE), ignore_errors=True)
        scratch.rename(SITE)
    finally:
        shutil.rmtree(str(scratch), ignore_errors=True)
    return [name for name in wheels if name not in taken]


def _compare(taken: dict[str, bytes]) -> None:
    """Stop unless ``site`` holds what the wheels unpack to, all of it and nothing else."""
    wanted: dict[str, str] = {}
    for data in taken.values():
        with _opened(data) as archive:
            for item in archive.infolist():
                if not item.is_dir():
                    wanted[item.filename] = hashlib.sha256(archive.read(item)).hexdigest()
    hashes = {}
    for place, folders, names in os.walk(str(SITE)):
        for name in [*names, *(one for one in folders if Path(place, one).is_symlink())]:
            path = Path(place, name)
            if path.name != _MARK or path.parent != SITE:
                regular = path.is_file() and not path.is_symlink()
                digest = hashlib.sha256(path.read_bytes()).hexdigest() if regular else "no file"
                hashes[path.relative_to(SITE).as_posix()] = digest
    others = sorted(name for name in set(wanted) | set(hashes) if wanted.get(name) != hashes.get(name))
    if others:
        got = f"{len(others)} files that are others, missing or not of the wheels, first {others[0]}"
        _stop(_USAGE, "site/ has changed since it was unpacked", SITE, got, "remove site/ and run this again")


def _opened(data: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile as error:
        _stop(_USAGE, "a wheel of the pack is none", HERE / "wheels", str(error), "make the pack again")


def _takes(name: str) -> bool:
    """Whether this Python and machine take a wheel, by its name."""
    pythons, abis, platforms = name[: -len(".whl")].split("-")[-3:]
    minor = sys.version_info[1]
    numbers = [int(match.group(1)) for match in re.finditer(r"cp3(\d+)", pythons)]
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
