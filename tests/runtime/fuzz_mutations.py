"""Other values, other bytes, other graphs: what the fuzzer makes of a file that was right."""

from __future__ import annotations

import copy
import io
import random
import struct
import zlib
from typing import Any

import onnx
from PIL import Image

from luvc_export.bundle.graph_rules import STANDARD

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**9, 10**11, 10**40, 0.5, -0.0, 1e308),
    *(float("inf"), float("nan"), "", "x", "../x", "/etc/passwd", "[/bold]", "\x1b[2J", "\ud800", "a\0b"),
    *("x" * 100_000, [], {}, [[]], {"": 0}, [10**9, 10**9], [None] * 1000),
)
INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 64, 1000, 2**16, 2**24, 2**31, 2**63 - 1)
#: Parts of templates: what was found to hang or to fill memory, and what leads out of a sandbox.
TEMPLATES = (
    "{% for i in range(99999) %}{{ messages }}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson(4) }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ 2 in n.x }}",
    "{{ [0] * 3999999 | sort }}{{ 9 ** 99999 ** 9 }}",
    "{{ messages | map('tojson', indent=999999) | list }}",
    "{{ ''.__class__ }}{{ 'x'.translate({120: 'y' * 4000000}) }}",
)
#: What Pillow writes and reads here, with options.
PICTURES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"progressive": True}), ("MPO", {})),
    *(("PNG", {}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("BMP", {}), ("DIB", {})),
    *(("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"})),
    *((kind, {}) for kind in ("JPEG2000", "AVIF", "ICO", "ICNS", "PPM", "TGA", "PCX", "SGI", "SPIDER", "QOI")),
    *((kind, {}) for kind in ("BLP", "DDS", "MSP", "XBM")),
)
_MODES = {"MSP": "1", "XBM": "1", "BLP": "P", "SPIDER": "F"}


def mutate_json(data: Any, dice: random.Random) -> Any:
    """A copy with another value at a random place, or a field less."""
    changed = copy.deepcopy(data)
    places: list[tuple[Any, Any]] = []
    waiting = [changed]
    while waiting:
        inner = waiting.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        places += [(inner, key) for key in keys]
        waiting += [inner[key] for key in keys]
    inner, key = dice.choice(places)
    if dice.random() < 0.1:
        del inner[key]
    else:
        inner[key] = dice.choice(VALUES)
    return changed


def mutate_bytes(data: bytes, dice: random.Random) -> bytes:
    """Other bytes, some less, or some twice."""
    changed, at = bytearray(data), dice.randrange(max(1, len(data)))
    kind = dice.randrange(4)
    if kind == 0:
        for _ in range(dice.choice((1, 4, 16))):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
    elif kind == 1:
        del changed[at : at + dice.choice((1, 100, len(changed)))]
    elif kind == 2:
        changed[at:at] = changed[: dice.choice((1, 100, 1000))]
    else:
        changed[at : at + 8] = dice.choice((b"\xff" * 8, bytes(8), b"\x80" * 8, b"\x7f" * 8))
    return bytes(changed)


def mutate_template(source: str, dice: random.Random) -> str:
    """A chat template with something hostile in it."""
    at = dice.randrange(len(source) + 1)
    return source[:at] + dice.choice(TEMPLATES) + source[at:] if dice.random() < 0.5 else dice.choice(TEMPLATES)


def mutate_graph(data: bytes, dice: random.Random) -> bytes:
    """A graph that is still one, with another node, number, name, shape or type in it."""
    model = onnx.load_from_string(data)
    graph = model.graph
    node = dice.choice(graph.node)
    names = [name for one in graph.node for name in (*one.input, *one.output)]
    kind = dice.randrange(10)
    numbers = [item for one in graph.node for item in one.attribute if item.type in (2, 7)]
    if kind == 0 and numbers:
        attribute = dice.choice(numbers)
        if attribute.type == 2:
            attribute.i = dice.choice(INTEGERS)
        else:
            attribute.ints[:] = [dice.choice(INTEGERS) for _ in range(dice.choice((0, 1, 2, 4)))]
    elif kind == 1:
        node.op_type = dice.choice(sorted(STANDARD))
    elif kind == 2 and node.input:
        node.input[dice.randrange(len(node.input))] = dice.choice(names)
    elif kind == 3:
        graph.node.remove(node)
    elif kind == 4:
        info = dice.choice([*graph.input, *graph.output])
        dims = info.type.tensor_type.shape.dim
        if dims:
            dice.choice(dims).dim_value = dice.choice(INTEGERS)
        else:
            info.type.tensor_type.elem_type = dice.choice((1, 6, 7, 9, 10, 11, 16))
    elif kind == 5:
        held = graph.output if dice.random() < 0.5 else graph.input
        del held[dice.randrange(len(held))]
    elif kind == 6:
        node.attribute.append(onnx.helper.make_attribute(dice.choice(("axis", "perm", "to", "start", "keepdims")), 9))
    elif kind == 7:
        _rename(graph, dice.choice([*graph.input, *graph.output]).name)
    else:
        _mutate_tensor(dice.choice(graph.initializer), dice)
    return bytes(model.SerializeToString())


def _rename(graph: Any, old: str) -> None:
    """The graph with another name for a value, wherever it stands."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == old else name for name in names]
    for value in (*graph.input, *graph.output):
        value.name = "renamed" if value.name == old else value.name


def _mutate_tensor(tensor: Any, dice: random.Random) -> None:
    if tensor.external_data:
        entry = dice.choice(tensor.external_data)
        entry.value = dice.choice(("0", "1", "-1", str(2**63), "../weights", "/etc/passwd", "weights"))
    elif tensor.data_type == 7 and tensor.raw_data and dice.random() < 0.7:
        values = list(struct.unpack(f"<{len(tensor.raw_data) // 8}q", tensor.raw_data))
        values[dice.randrange(len(values))] = dice.choice(INTEGERS)
        tensor.raw_data = struct.pack(f"<{len(values)}q", *values)
    elif dice.random() < 0.5 or not tensor.dims:
        tensor.data_type = dice.choice((0, 1, 2, 7, 8, 9, 10, 16, 23))
    else:
        tensor.dims[dice.randrange(len(tensor.dims))] = dice.choice(INTEGERS)


def picture(dice: random.Random) -> tuple[str, bytes]:
    """A small picture of one of Pillow's kinds, mutated, or one that claims to be large; kind and bytes."""
    kind, options = dice.choice(PICTURES)
    stored = io.BytesIO()
    noise = Image.effect_noise((dice.choice((1, 33, 100)), 40), 60).convert(_MODES.get(kind, "RGB"))
    more = {"save_all": True, "append_images": [noise] * 3} if kind in ("GIF", "WEBP", "PNG", "MPO") else {}
    noise.save(stored, kind, **options, **(more if dice.random() < 0.3 or kind == "MPO" else {}))
    data = stored.getvalue()
    if dice.random() < 0.3:
        return kind, _claim(kind, data, dice)
    return kind, mutate_bytes(data, dice)


def _claim(kind: str, data: bytes, dice: random.Random) -> bytes:
    """The picture with another width and height in its header, all checksums right."""
    width, height = (dice.choice((1, 100, 1000, 4096, 5792, 8192, 65_535, 70_000, 2**31 - 1)) for _ in range(2))
    changed = bytearray(data)
    if kind == "PNG":
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
    elif kind in ("BMP", "DIB"):
        at = 18 if kind == "BMP" else 4
        changed[at : at + 8] = struct.pack("<II", width, height)
    elif kind in ("JPEG", "MPO"):
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        changed[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
        if data.find(b"\xff\xc2") >= 0 and dice.random() < 0.5:  # more scans
            scan = data[data.rindex(b"\xff\xda") : -2]
            changed[-2:-2] = scan * dice.choice((10, 100, 1000))
    elif kind == "GIF":
        changed[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif kind == "WEBP" and data[12:16] == b"VP8L":
        changed[21:25] = struct.pack("<I", (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14)
    elif kind == "WEBP" and data[12:16] == b"VP8 ":
        changed[26:30] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    elif kind == "WEBP":
        changed[24:30] = (width - 1).to_bytes(4, "little")[:3] + (height - 1).to_bytes(4, "little")[:3]
    elif kind == "QOI":
        changed[4:12] = struct.pack(">II", width, height)
    elif kind in ("TGA", "PCX", "SGI"):
        at, order = {"TGA": (12, "<"), "PCX": (8, "<"), "SGI": (6, ">")}[kind]
        changed[at : at + 4] = struct.pack(f"{order}HH", width & 0xFFFF, height & 0xFFFF)
    else:  # wherever the sizes stand
        for size, other in ((40, height), (33, width), (100, width)):
            for pattern in (">I", "<I", "<H", ">H"):
                at = data.find(struct.pack(pattern, size))
                if at >= 0:
                    limit = 0xFFFF if pattern.endswith("H") else 0xFFFFFFFF
                    changed[at : at + struct.calcsize(pattern)] = struct.pack(pattern, other & limit)
                    break
    return bytes(changed)
