"""Two odd-shaped checkpoints of every family: head sizes, depths, vocabularies that no tiny model has; sharded, tied.

``python tests/export/families/family_odd.py`` compares all of them with transformers, in every fit: the torch modules,
and an exported bundle's graphs in ONNX Runtime and OpenVINO. It writes how far they are apart to docs/results/odd.json
and odd.md; a family named alone keeps the others. ``test_family_odd.py`` does a share of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # helpers of all tests, where this is run as a script

import family_chat
import torch
from family_checkpoints import find
from family_harness import Case, build
from family_questions import questions

from luvc_export import export_bundle
from luvc_export.bundle.folder import load, write_manifest
from luvc_export.bundle.manifest import Fit
from luvc_export.calibration import runners
from luvc_export.calibration.parity.result import ParityResult
from luvc_export.calibration.parity.run import parity
from luvc_export.calibration.runners.canvas import canvas, uncompressed
from luvc_export.export import families
from luvc_export.export.checkpoint import open_checkpoint

FITS: tuple[Fit, ...] = ("pad", "crop", "stretch")
ODD = ("narrow", "deep")
#: Greedy tokens that must be equal.
GREEDY = 24


def odd(name: str, kind: str) -> Case:
    """``narrow``: one key head for three query heads of 24, four small heads in the tower, a vocabulary of 307.

    ``deep``: five layers, tied.
    """
    family, own = families.find(name, "test"), find(name).odd
    config = family.tiny_config()
    return build(family, own(config, kind, _usual) if own else _usual(config, kind), seed=3)


def _usual(config: Any, kind: str) -> Any:
    """Of most families; a config of its own sizes is changed in place."""
    text, vision = config.get_text_config(), config.vision_config
    if kind == "narrow":
        text.num_attention_heads, text.num_key_value_heads = 3, 1
        text.hidden_size, text.intermediate_size, text.vocab_size = 72, 100, 307
        text.head_dim = 24
        rope = getattr(text, "rope_parameters", None) or {}
        if "mrope_section" in rope:
            axes, turned = len(rope["mrope_section"]), int(12 * rope.get("partial_rotary_factor", 1))
            text.rope_parameters = rope | {"mrope_section": [turned // axes] * axes}
        if hasattr(vision, "out_hidden_size"):
            vision.out_hidden_size = 72
        heads = "num_heads" if hasattr(vision, "num_heads") else "num_attention_heads"
        if hasattr(vision, heads):
            setattr(vision, heads, 2 * getattr(vision, heads))
        if hasattr(vision, "head_dim"):
            vision.head_dim = vision.hidden_size // getattr(vision, heads)
    else:
        text.num_hidden_layers, text.intermediate_size = 5, 130
        if getattr(text, "layer_types", None):
            text.layer_types = [text.layer_types[index % len(text.layer_types)] for index in range(5)]
    tied = kind == "deep"
    config.tie_word_embeddings = text.tie_word_embeddings = tied
    return type(config)(**config.to_dict())


def save(tiny: Case, folder: Path, kind: str) -> Path:
    """The checkpoint, in several shards where ``kind`` is deep, with everything a chat needs."""
    family_chat.save(tiny, folder)
    if kind == "deep":
        (folder / "model.safetensors").unlink()
        tiny.model.save_pretrained(folder, max_shard_size="100KB")
        assert len([*folder.glob("model-*.safetensors")]) > 1
    return folder


def compared(
    name: str, kind: str, folder: Path, fits: tuple[Fit, ...] = FITS, runs: str = "torch", step: int = 1
) -> dict[Fit, ParityResult]:
    """Plan ``none`` against transformers on pictures of other shapes, two to a prompt, and on text alone.

    In torch, or a bundle's graphs in one of ``GRAPHS``, exported once into ``folder``: what a fit changes is not in
    them. Every ``step``-th question is asked.
    """
    tiny, model, bundle = odd(name, kind), folder / "model", folder / "bundle"
    checkpoint = open_checkpoint(str(model if model.is_dir() else save(tiny, model, kind)))
    asked, results = questions(name, "pictures")[::step], {}
    if runs in GRAPHS and not bundle.is_dir():
        export_bundle(checkpoint, bundle, "none", image_size=tiny.size, text_capacity=256)
    for fit in fits:
        image = canvas(checkpoint, tiny.size, fit)
        left = runners.open_huggingface(checkpoint, image)
        if runs in GRAPHS:
            manifest = load(bundle).manifest
            write_manifest(bundle, replace(manifest, image=replace(manifest.image, fit=fit)))
        right = (
            GRAPHS[runs](str(bundle), "none", 1)
            if runs in GRAPHS
            else runners.open_torch(checkpoint, uncompressed(checkpoint, tiny.size), image)
        )
        results[fit] = parity(left, right, asked, observe=len(asked), longest=GREEDY)
    return results


GRAPHS = {"onnxruntime": runners.open_bundle, "openvino": runners.open_openvino}
RUNTIMES = ("torch", *GRAPHS)
PAGE = Path(__file__).resolve().parents[3] / "docs/results/odd.md"
FIGURES = PAGE.with_suffix(".json")
_HEAD = f"""# Odd-shaped checkpoints

Written by `python tests/export/families/family_odd.py [FAMILY ...]`: plan `none` against transformers, for two
odd-shaped checkpoints of random weights of every family. `narrow` has one key head for three query heads of 24, a
tower with twice the heads, and a vocabulary of 307; `deep` has five layers, tied embeddings, an MLP of 130, and lies in
several shards. Four questions: a picture twice as high as its canvas, one three times as wide, two pictures, none. In
each place: the largest relative L2 of any tensor (visual embeddings, what enters each layer, keys, values, logits; the
limit is 1e-4), and how many of the four answers of {GREEDY} tokens are those of `generate`.

| family | checkpoint | runs in | padded | cropped | stretched |
|---|---|---|---|---|---|
"""


def cell(result: ParityResult) -> str:
    """The worst tensor and the equal answers."""
    same = sum(item.diverged is None for item in result.comparison.answered)
    shown = f"{max(step.rel_l2 for step in result.steps):.0e}, {same} of {len(result.comparison.answered)}"
    return shown if result.passed else f"{shown}, FAILED"


def page(cells: dict[str, list[str]]) -> str:
    """The page from cells by ``FAMILY CHECKPOINT RUNTIME``."""
    lines = [f"| `{name}` | {kind} | {runs} | {' | '.join(result)} |" for (name, kind, runs), result in _keyed(cells)]
    lacking = [" ".join(key) for key in _order() if " ".join(key) not in cells]
    left = f"\nNot run yet: {', '.join(lacking)}.\n" if lacking else ""
    return _HEAD + "\n".join(lines) + "\n" + left


def _keyed(cells: dict[str, list[str]]) -> list[tuple[tuple[str, str, str], list[str]]]:
    return [(key, cells[" ".join(key)]) for key in _order() if " ".join(key) in cells]


def _order() -> list[tuple[str, str, str]]:
    return [(name, kind, runs) for name in families.built_in() for kind in ODD for runs in RUNTIMES]


def record(name: str, kind: str, runs: str, results: dict[Fit, ParityResult]) -> None:
    """Put a line into the figures and the page."""
    known = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() else {}
    known[f"{name} {kind} {runs}"] = cells = [cell(one) for one in results.values()]
    print(name, kind, runs, *cells, sep=" | ", flush=True)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(known[key])}" for key in sorted(known))
    FIGURES.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    PAGE.write_text(page(known), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[1:] or families.built_in():
        for shape in ODD:
            with tempfile.TemporaryDirectory() as scratch:
                for runs in RUNTIMES:
                    record(each, shape, runs, compared(each, shape, Path(scratch), runs=runs))
    sys.exit("FAILED" in PAGE.read_text(encoding="utf-8"))
