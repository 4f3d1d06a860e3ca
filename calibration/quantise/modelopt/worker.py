"""Run by path with the Python of an environment that has nvidia-modelopt, onnx and numpy; imports nothing of ours.

``worker.py --version`` prints the version of nvidia-modelopt. ``worker.py FOLDER`` reads ``request.json``,
``graph.onnx`` and ``inputs.npz`` there and writes ``result.onnx``. What goes wrong is printed, and the exit code is 1.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

#: The version this exchange was written for and run with; older ones were not tried.
OLDEST = (0, 47)


class Calls:
    """The recorded calls, one after another, as ONNX Runtime's calibration asks for them.

    Args:
        path: The npz file.
        dtypes: Of the inputs the graph has; other arrays of a call are left out.
    """

    def __init__(self, path: Path, dtypes: dict[str, Any]) -> None:
        numpy = importlib.import_module("numpy")
        self._file, self._dtypes = numpy.load(path, allow_pickle=False), dtypes
        self._keys: dict[str, list[str]] = {}
        for key in self._file.files:
            if key.partition("/")[2] in dtypes:
                self._keys.setdefault(key.partition("/")[0], []).append(key)
        self.rewind()

    def rewind(self) -> None:
        """Begin again."""
        self._left = iter(self._keys.values())

    def get_first(self) -> dict[str, Any]:
        """The first call; does not count as asked for."""
        return self._read(next(iter(self._keys.values())))

    def get_next(self) -> dict[str, Any] | None:
        """The next call; None after the last."""
        keys = next(self._left, None)
        return None if keys is None else self._read(keys)

    def _read(self, keys: list[str]) -> dict[str, Any]:
        names = [key.partition("/")[2] for key in keys]
        return {name: self._file[key].astype(self._dtypes[name]) for name, key in zip(names, keys, strict=True)}


def version() -> str:
    """Of the installed nvidia-modelopt; ends the process where there is none or too old a one."""
    try:
        installed = metadata.version("nvidia-modelopt")
    except metadata.PackageNotFoundError:
        sys.exit("nvidia-modelopt is not installed in this environment")
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < OLDEST:
        sys.exit(f"nvidia-modelopt {installed} is too old: {'.'.join(map(str, OLDEST))} or later is needed")
    return installed


def run(folder: Path) -> None:
    """Quantise as ``request.json`` says."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("modelopt.onnx.quantization")
    graph = onnx.load(str(folder / "graph.onnx"), load_external_data=False).graph
    kind = onnx.helper.tensor_dtype_to_np_dtype
    dtypes = {item.name: kind(item.type.tensor_type.elem_type) for item in graph.input}
    quantization.quantize(
        str(folder / "graph.onnx"),
        request["mode"],
        calibration_data_reader=Calls(folder / "inputs.npz", dtypes),
        calibration_method=request["method"],
        calibration_eps=["cpu"],
        op_types_to_quantize=request["operators"],
        nodes_to_quantize=[re.escape(name) + r"\Z" for name in request["products"]],
        use_external_data_format=True,
        output_path=str(folder / "result.onnx"),
        high_precision_dtype="fp32",
        disable_mha_qdq=True,
        passes=[],
        enable_gemv_detection_for_trt=False,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--version"]:
        print(version())
    else:
        run(Path(sys.argv[1]))
