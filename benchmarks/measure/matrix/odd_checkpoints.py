"""Odd heads and odd tokenizers of every family, in 16 bits: is a bundle what transformers makes of them?

    python benchmarks/measure/matrix/odd_checkpoints.py FOLDER [--family NAME ...]

The tiny model of each family has a head of other values than the embedding that its config ties it to, and its
tokenizer's config says what tokenizer.json does not: "+" takes the blanks around it, an end of answers has a name. Its
bundle is a cell ``none`` of ``sixteen_bits.py``: held to transformers' own model in fp16 (ONNX Runtime) or bf16
(OpenVINO), in turns. A family is a line of docs/results/odd-checkpoints.json once it is done, and is not run again;
docs/results/odd-checkpoints.md is written from the lines. Exit code 1 where one is not equal.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import sixteen_bits
from sixteen_bits_cells import FAMILIES, HERE, Cells, exportable, family_chat
from test_family_heads import build, odd_head
from tokenizers import Tokenizer

from luvc_export.core.files.json_file import dumps
from luvc_export.export.reading.tokenizer_files import TOKENIZER, tokenizer_files

LINES, PAGE = (HERE / "docs" / "results" / f"odd-checkpoints.{ending}" for ending in ("json", "md"))
#: What a family's bundle is in, and what opens it.
TURNS = (("fp16", "onnx runtime"), ("bf16", "openvino bf16"))
TEXT = "2 + 2?"
HEADING = f"""# Odd heads and odd tokenizers, in 16 bits

Written by `python benchmarks/measure/matrix/odd_checkpoints.py FOLDER`: tiny models whose head differs from the
embedding that it is tied to, with a tokenizer whose config says more than its rules (`+` takes the blanks around it:
tokens of `{TEXT}`). Plan `none` against transformers' own model in the same type, by the gates of
[parity](../parity.md), as in [the matrix of 16 bits](sixteen-bits.md).

| family | type, opened by | head | tokens | parity |
|---|---|---|---|---|
"""


class Odd(Cells):
    """Cells of odd checkpoints."""

    def checkpoint(self, name: str) -> Path:
        """The family's tiny model with an odd head, where transformers ties one, and an odd tokenizer."""
        folder, tiny = self.folder / name, exportable(name)
        if not (folder / "special_tokens_map.json").is_file():
            config: Any = copy.deepcopy(tiny.config)
            config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
            folder.mkdir(parents=True, exist_ok=True)
            tied = build(tiny.family, config, seed=5)
            if ties(tiny):
                odd_head(tied, "differs", folder)
            else:
                family_chat.save(tied, folder)
            rules = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
            listed = {str(token.pop("id")): token for token in rules["added_tokens"]}  # some classes know these alone
            plus = {"content": "+", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False}
            path = folder / "tokenizer_config.json"
            fields = json.loads(path.read_text(encoding="utf-8"))
            fields["added_tokens_decoder"] = listed | {str(rules["model"]["vocab"]["+"]): plus | {"special": False}}
            path.write_text(json.dumps(fields), encoding="utf-8")
            (folder / "special_tokens_map.json").write_text('{"eos_token": "<t140>"}', encoding="utf-8")
        return folder


def ties(tiny: Any) -> bool:
    """Whether transformers ties such a model."""
    return bool(type(tiny.model)._tied_weights_keys)


def row(cells: Odd, name: str) -> dict[str, Any]:
    """What became of a family."""
    dtype, check = TURNS[FAMILIES.index(name) % 2]
    result = cells(name, "none", dtype, [check])
    verdict = result["checks"][check] if "checks" in result else f"refused: {result['refused at export']}"
    folder = cells.checkpoint(name)
    plain, own = (folder / TOKENIZER).read_bytes(), tokenizer_files(folder).files[TOKENIZER]
    ids = [len(Tokenizer.from_str(data.decode()).encode(TEXT).ids) for data in (plain, own)]
    return {"family": name, "type": dtype, "check": check, "head": ties(exportable(name)), "ids": ids, "is": verdict}


def read() -> list[dict[str, Any]]:
    """What was run before."""
    lines: list[dict[str, Any]] = json.loads(LINES.read_text(encoding="utf-8")) if LINES.is_file() else []
    return lines


def page(lines: list[dict[str, Any]]) -> str:
    """The lines as a page."""
    rows = [
        f"| {one['family']} | {one['type']}, {one['check']} | {'differs' if one['head'] else 'never tied'} "
        f"| {one['ids'][0]} before, {one['ids'][1]} as transformers | {one['is']} |\n"
        for one in lines
    ]
    return HEADING + "".join(rows)


def main() -> int:
    """Run what was not run before."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", action="append", choices=FAMILIES)
    options = parser.parse_args()
    sixteen_bits.believe_bf16()
    cells = Odd(options.folder, ("none",))
    for name in options.family or FAMILIES:
        lines = {one["family"]: one for one in read()}
        if name not in lines:
            lines[name] = row(cells, name)
            print(lines[name], flush=True)
            LINES.write_text(dumps([lines[one] for one in sorted(lines)]) + "\n", encoding="utf-8")
            PAGE.write_text(page(read()), encoding="utf-8")
    return int(not all(one["is"].startswith("equal") for one in read()))


if __name__ == "__main__":
    raise SystemExit(main())
