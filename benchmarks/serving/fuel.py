"""How long a token's mask takes at several limits of work, on patterns that are heavy on purpose.

``python benchmarks/serving/fuel.py [--tokenizer tokenizer.json] [--end TOKEN]``; the tokenizer is the bundled model's
where none is named. ``runtime.generation.grammar_text`` has the limits. Prints, for each limit of a mask, what became
of walks and the times of their masks, of computing; then the times of patterns up to the first token at limits of that.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from schemas import Walks

from luvc_export.demo import CHECKPOINT
from luvc_export.errors import UsageError
from luvc_export.runtime.generation import grammar_text

#: Repetitions inside repetitions, and alternatives that stay open for long.
PATTERNS = (
    r"((a|b|c|d)?(e|f|g)?.{0,20}){40}",
    r"(.{0,20}.{0,20}){40}",
    r"([a-z ]{1,50}|[a-f0-9]{1,60} ){1,50}",
    r"(\w{1,30}[ ,.-]?){1,300}",
    r"\p{L}{1,40}(\p{L}|\p{N}| ){0,400}x(\p{L}|[0-9]){300}",
    *(
        "(" + "|".join(f".{{0,{step * place + 3}}}{chr(97 + place % 26)}" for place in range(count)) + f"){{{times}}}"
        for count, step, times in ((100, 7, 3), (200, 10, 30), (400, 5, 30), (800, 3, 30))
    ),
)
#: Patterns that take their time before the first token.
LONG = ("(a{1000}){9}", "(a|b|c){9999}", "(a{0,1000}){0,1000}", "((abc){3000})", PATTERNS[-1])
#: The library's own limit of a mask is the first.
MASKS, FIRST = (200_000, 500_000, 1_000_000, 2_000_000), (300_000, 1_000_000)


def masks(walks: Walks, fuel: int, each: int) -> dict[str, Any]:
    """Walks through every pattern with one limit of a mask's work."""
    grammar_text._MASK_FUEL, walks.seconds, counts = fuel, [], Counter[str]()
    for pattern in PATTERNS:
        for seed in range(each):
            try:
                text = walks.walk(walks.mask({"type": "string", "pattern": f"^{pattern}$"}), seed)
                counts["open" if text is None else "whole"] += 1
            except UsageError:
                counts["too much work"] += 1
    return {"mask fuel": fuel, **counts, "mask_ms": _quantiles(walks.seconds)}


def first(walks: Walks, fuel: int) -> dict[str, Any]:
    """Patterns up to the first token with one limit of that work."""
    grammar_text._FUEL, seconds, refused = fuel, [], 0
    for pattern in (*LONG, *PATTERNS):
        began = time.process_time()
        try:
            walks.mask({"type": "string", "pattern": f"^{pattern}$"})([])
        except UsageError:
            refused += 1
        seconds.append(time.process_time() - began)
    return {"first fuel": fuel, "patterns": len(seconds), "refused": refused, "ms": _quantiles(seconds)}


def _quantiles(seconds: list[float]) -> dict[str, float]:
    values = np.quantile(1000 * np.array(seconds), (0.5, 0.99, 1)).round(2).tolist()
    return dict(zip(("p50", "p99", "most"), values, strict=True))


def main() -> None:
    """Print a line for each limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=CHECKPOINT / "tokenizer.json")
    parser.add_argument("--end", default="<|im_end|>")
    parser.add_argument("--walks", type=int, default=3)
    options = parser.parse_args()
    walks = Walks(options.tokenizer, options.end)
    print(json.dumps({"vocabulary": walks.tokenizer.get_vocab_size()}))
    own = grammar_text._FUEL, grammar_text._MASK_FUEL
    for fuel in MASKS:
        print(json.dumps(masks(walks, fuel, options.walks)), flush=True)
    grammar_text._MASK_FUEL = own[1]
    for fuel in FIRST:
        print(json.dumps(first(walks, fuel)), flush=True)


if __name__ == "__main__":
    main()
