"""A real bundle small enough to compute by hand: one picture gives 4 visual tokens of width 4, two layers, 260 tokens.

Layer 0 keeps visual tokens 1 and 2, layer 1 none. Attention is the plain mean of what a token may see, and
``expected`` says in numpy what the graphs compute.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from flat_plans import flat_plan
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.manifest import ImageInput, Manifest, PlanEntry, Prompt, Source, Weights
from luvc_export.bundle.manifest import WeightTensor as Place
from luvc_export.core.shapes import DecoderShape

WIDTH, TOKENS, VOCAB, LAYERS = 4, 4, 260, 2
KEEP = (2, 0)
IMAGE_TOKEN, END_TOKEN = 256, 257
TEMPLATE = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)
PLAN = flat_plan(grid=(2, 2), keep=KEEP)


def weights(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Embedding [vocab, width], colours [3, width], positions [3, width]; representable in bf16 and fp16."""
    random = np.random.default_rng(seed)
    return {
        "embed": random.integers(-8, 9, (VOCAB, WIDTH)).astype(np.float32) / 4,
        "colour": random.integers(-8, 9, (3, WIDTH)).astype(np.float32) / 4,
        "place": random.integers(-8, 9, (3, WIDTH)).astype(np.float32) / 64,
    }


def tokenizer() -> Tokenizer:
    """Bytes as tokens 0..255 in the order of the byte-level alphabet, then special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters.decoder = decoders.ByteLevel()
    letters.add_special_tokens([AddedToken(text, special=True) for text in ("<image>", "<end>", "<a>", "<b>")])
    return letters


def write(folder: Path, mode: str = "copy", dtype: str = "float32", io: str = "fp32", context: int = 64) -> Bundle:
    """Write the bundle.

    Args:
        folder: Where; with ``reference`` the weights go to ``folder.parent / "checkpoint"``.
        mode: copy, reference or none.
        dtype: Stored type of the weights, float32, float16 or bfloat16.
        io: fp32, fp16 or bf16: type of visual embeddings and caches (computed in fp32).
        context: The model's context; the text capacity is 48.
    """
    folder.mkdir(parents=True)
    store = folder if mode != "reference" else folder.parent / "checkpoint"
    store.mkdir(exist_ok=True)
    places = _write_weights(store / "weights", dtype)
    graphs = {"vision.onnx": _vision(places, io), "decoder.onnx": _decoder(places, io)}
    graphs["debug.onnx"] = _decoder(places, io, debug=True)
    for name, model in graphs.items():
        (folder / name).write_bytes(model.SerializeToString())
    (folder / "tokenizer.json").write_text(tokenizer().to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
    names = [*graphs, "tokenizer.json", "tokenizer_config.json", *(["weights"] if mode == "copy" else [])]
    manifest = Manifest(
        source=Source("tiny", "tiny", "0"),
        dtype=io,  # type: ignore[arg-type]
        image=ImageInput((4, 4), "pad", (127, 127, 127)),
        prompt=Prompt(IMAGE_TOKEN, (END_TOKEN,), 48),
        decoder=DecoderShape(LAYERS, WIDTH, 1, 1, WIDTH, 8, VOCAB, context),
        default_plan="half",
        plans={"half": PlanEntry(PLAN, "vision.onnx", "decoder.onnx", "debug.onnx", size=(4, 4), precision=io)},
        weights=Weights(mode, str(store) if mode == "reference" else None, places),  # type: ignore[arg-type]
        files={name: bundles.record(folder / name) for name in names},
        tools={},
    )
    bundles.write_manifest(folder, manifest)
    return bundles.load(folder)


def expected(ids: list[int], pictures: np.ndarray[Any, Any], kept: tuple[int, ...] = (1, 2)) -> np.ndarray[Any, Any]:
    """Logits [T, vocab] of every text token of ``ids``; pictures uint8 [n, 1, 4, 4, 3]."""
    table = weights()
    rows, orders, text, position, order, seen = [], [], [], 0, 0, 0
    for token in ids:
        if token == IMAGE_TOKEN:
            units = pictures[seen, 0].reshape(2, 2, 2, 2, 3).mean((1, 3)).reshape(4, 3) / 255
            for unit in kept:
                place = np.array([position, position + unit // 2, position + unit % 2])
                rows.append(units[unit] @ table["colour"] + place @ table["place"])
                orders.append(order + unit)
                text.append(False)
            position, order, seen = position + 2, order + 4, seen + 1
        else:
            rows.append(table["embed"][token] + np.full(3, position) @ table["place"])
            orders.append(order)
            text.append(True)
            position, order = position + 1, order + 1
    x, where = np.array(rows), np.array(orders)
    for layer in range(LAYERS):
        if not KEEP[layer]:
            x, where, text = x[np.array(text)], where[np.array(text)], [True] * sum(text)
        mask = (where[None] <= where[:, None]).astype(np.float64)
        x = x + 2 * (mask / mask.sum(1, keepdims=True)) @ x
    return np.asarray(x[np.array(text)] @ table["embed"].T)


def _write_weights(path: Path, dtype: str) -> dict[str, Place]:
    data, places = b"odd", {}  # tensors start at an odd byte, as they may in safetensors
    for name, array in weights().items():
        raw = array.astype(np.float16) if dtype == "float16" else array
        if dtype == "bfloat16":
            raw = (array.view(np.uint32) >> 16).astype(np.uint16)
        places[name] = Place(path.name, len(data), raw.nbytes, dtype, array.shape)
        data += raw.tobytes()
    path.write_bytes(data)
    return places


_ELEMENT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_IO = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


class _Graph:
    def __init__(self, places: dict[str, Place], names: tuple[str, ...]) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        for name in names:
            tensor = TensorProto(name=name, data_type=_ELEMENT[places[name].dtype], dims=places[name].shape)
            tensor.data_location = TensorProto.EXTERNAL
            pairs = {"location": places[name].file, "offset": places[name].offset, "length": places[name].bytes}
            for key, value in pairs.items():
                tensor.external_data.add(key=key, value=str(value))
            self.tensors.append(tensor)
            self("Cast", name, to=TensorProto.FLOAT, out=f"{name}.float")

    def __call__(self, kind: str, *inputs: Any, out: str | None = None, **attributes: Any) -> str:
        out = out or f"v{len(self.nodes)}"
        named = [item if isinstance(item, str) else self.constant(item) for item in inputs]
        self.nodes.append(helper.make_node(kind, named, [out], **attributes))
        return out

    def constant(self, value: Any) -> str:
        array = np.array(value, np.int64 if np.array(value).dtype.kind == "i" else np.float32)
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def model(self, inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
        infos = ([helper.make_tensor_value_info(*item) for item in items] for items in (inputs, outputs))
        graph = helper.make_graph(self.nodes, "tiny", *infos, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _vision(places: dict[str, Place], io: str) -> onnx.ModelProto:
    g = _Graph(places, ("colour",))
    pixels = g("Reshape", g("Cast", "image", to=1), [0, 2, 2, 2, 2, 3])  # [n, row, y, column, x, rgb] as F is 1
    units = g("Reshape", g("ReduceMean", pixels, [2, 4], keepdims=0), [0, 4, 3])
    g("Cast", g("MatMul", g("Div", units, 255.0), "colour.float"), to=_IO[io], out="visual_embeds")
    count = g("Shape", "image", start=0, end=1)
    places_of = [[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]]
    g("Expand", places_of, g("Concat", count, [4, 2], axis=0), out="visual_positions")
    g("Expand", [[0, 1, 2, 3]], g("Concat", count, [4], axis=0), out="merged_into")
    return g.model(
        [("image", TensorProto.UINT8, ["n", 1, 4, 4, 3])],
        [
            ("visual_embeds", _IO[io], ["n", TOKENS, WIDTH]),
            ("visual_positions", 1, ["n", TOKENS, 2]),
            ("merged_into", 7, ["n", TOKENS]),
        ],
    )


def _decoder(places: dict[str, Place], io: str, debug: bool = False) -> onnx.ModelProto:
    g = _Graph(places, ("embed", "place"))
    if debug:
        first = g("Mul", g("Range", 0, g("Squeeze", g("Shape", "visual_embeds", start=1, end=2)), 1), TOKENS)
        rows = g("Reshape", g("Add", "forced_indices.0", g("Unsqueeze", first, [1])), [-1])

    def positions(name: str) -> str:
        return g("MatMul", g("Transpose", name, perm=[1, 2, 0]), "place.float")

    def kept(name: str, width: list[int]) -> str:
        if debug:
            return g("Gather", g("Reshape", name, [0, -1, *width]), rows, axis=1)
        groups = g("Reshape", name, [0, -1, TOKENS, *width])
        return g("Reshape", g("Slice", groups, [1], [3], [2]), [0, -1, *width])

    embeds = g("Reshape", g("Cast", "visual_embeds", to=1), [0, -1, WIDTH])
    visual = kept(g("Add", embeds, positions("visual_position_ids")), [WIDTH])
    text = g("Add", g("Gather", "embed.float", "input_ids"), positions("position_ids"))
    x, order = g("Concat", visual, text, axis=1), g("Concat", kept("visual_order", []), "order", axis=1)
    if not debug:
        count = g("Concat", g("Shape", "visual_embeds", start=0, end=2), [1], axis=0)
        g("Expand", [[[1, 2]]], count, out="kept_indices.0")
    for layer in range(LAYERS):
        if layer == 1:
            start = g("Shape", visual, start=1, end=2)
            x, order = (g("Slice", name, start, [2**31], [1]) for name in (x, order))
        past = f"past_key_values.{layer}."
        new = g("Unsqueeze", x, [1])
        g("Concat", past + "key", g("Cast", new, to=_IO[io]), axis=2, out=f"present.{layer}.key")
        doubled = g("Cast", g("Mul", new, 2.0), to=_IO[io])
        value = g("Concat", past + "value", doubled, axis=2, out=f"present.{layer}.value")
        before = g("Expand", [[-1]], g("Concat", [1], g("Shape", past + "key", start=2, end=3), axis=0))
        keys = g("Unsqueeze", g("Concat", before, order, axis=1), [1])
        mask = g("Cast", g("LessOrEqual", keys, g("Unsqueeze", order, [2])), to=1)
        mean = g("Div", mask, g("ReduceSum", mask, [2], keepdims=1))
        x = g("Add", x, g("MatMul", mean, g("Squeeze", g("Cast", value, to=1), [1])))
    chosen = g("Gather", x, g("Squeeze", "logits_indices", [0]), axis=1)
    g("MatMul", chosen, g("Transpose", "embed.float"), out="logits")
    g("Identity", "text_mask", out="text_mask_seen")  # the tiny model needs no mask, but ONNX Runtime keeps the input
    caches = [f"{part}.key {part}.value".split() for part in ("past_key_values.0", "past_key_values.1")]
    return g.model(
        [
            ("visual_embeds", _IO[io], [1, "G", TOKENS, WIDTH]),
            ("input_ids", 7, [1, "T"]),
            ("visual_position_ids", 1, [3, 1, "V"]),
            ("position_ids", 1, [3, 1, "T"]),
            ("visual_order", 7, [1, "V"]),
            ("order", 7, [1, "T"]),
            ("text_mask", TensorProto.BOOL, [1, "PT"]),
            ("logits_indices", 7, [1, "n"]),
            *((name, _IO[io], [1, 1, f"P{i}", WIDTH]) for i, pair in enumerate(caches) for name in pair),
            *([("forced_indices.0", 7, [1, "G", 2])] if debug else []),
        ],
        [
            ("logits", 1, [1, "n", VOCAB]),
            *(
                (name.replace("past_key_values", "present"), _IO[io], [1, 1, f"R{i}", WIDTH])
                for i, pair in enumerate(caches)
                for name in pair
            ),
            *([] if debug else [("kept_indices.0", 7, [1, "G", 2])]),
        ],
    )
