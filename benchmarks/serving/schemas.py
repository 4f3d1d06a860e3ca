"""Guided answers over published schemas: random walks through the mask, each document judged by ``jsonschema``.

``python benchmarks/serving/schemas.py SCHEMAS [--suite SUITE] [--tokenizer tokenizer.json] [--count 300] [--walks 2]``

SCHEMAS is a folder of JSON files, each a schema or an object whose ``json_schema`` is one (JSONSchemaBench's ``data``);
SUITE holds groups of schemas and documents that are valid or not (those of 2020-12 in JSON-Schema-Test-Suite).
``schemas.sh`` fetches both and jsonschema. A walk takes tokens that the mask allows, at random but for a liking of what
closes; where the mask allows nothing but the end, or the end and there is enough, the document is whole. Ends with exit
code 1 where a mask had a document end that is none (``cut``) or does not fit its schema (``invalid``), or takes one of
the suite that is invalid.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from luvc_export.demo import CHECKPOINT
from luvc_export.errors import UsageError
from luvc_export.runtime.generation.grammar_trials import MAX_CHARACTERS
from luvc_export.runtime.generation.guided import Grammars
from luvc_export.runtime.generation.logits import TokenMask
from luvc_export.runtime.generation.sampling import Sampling

#: Tokens of a walk, after how many it takes the first end, and how often it closes what it can.
LENGTH, ENOUGH, CLOSING = 500, 60, 0.35


class Walks:
    """Walks through masks of one tokenizer.

    Args:
        tokenizer: File of the tokenizer.
        end: Its token that ends an answer.
    """

    def __init__(self, tokenizer: Path, end: str) -> None:
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        number = self.tokenizer.token_to_id(end)
        if number is None:
            raise SystemExit(f"{tokenizer} has no token {end}: name one with --end")
        self._end = number
        self._grammars = Grammars(self.tokenizer, self.tokenizer.get_vocab_size(), frozenset({number}))
        self._closing = np.array([one for one in map(self.tokenizer.token_to_id, ('"', "}", "]")) if one is not None])
        #: Seconds of computing for each mask.
        self.seconds: list[float] = []

    def mask(self, schema: Any) -> TokenMask:
        """The mask of an answer.

        Raises:
            UsageError: No grammar can be made of the schema.
        """
        if not isinstance(schema, dict):
            raise UsageError("a schema that is no object is refused by the doors")
        mask = self._grammars.guided(Sampling(json_schema=schema)).mask
        assert mask is not None
        return mask()

    def walk(self, mask: TokenMask, seed: int) -> str | None:
        """A document, None where it has not ended.

        Raises:
            UsageError: A mask takes too much work.
        """
        chance, answer = random.Random(seed), list[int]()
        for _ in range(LENGTH):
            began = time.process_time()
            allowed = mask(answer)
            self.seconds.append(time.process_time() - began)
            assert allowed is not None
            tokens = np.flatnonzero(allowed)
            if allowed[self._end] and (len(tokens) == 1 or len(answer) > ENOUGH):
                return str(self.tokenizer.decode(answer, skip_special_tokens=False))
            closing = self._closing[allowed[self._closing]]
            liked = closing if len(closing) and chance.random() < CLOSING else tokens[tokens != self._end]
            answer.append(int(liked[chance.randrange(len(liked))]))
        return None

    def takes(self, mask: TokenMask, document: Any) -> bool:
        """Whether the mask allows a document, as ``json.dumps`` and the tokenizer write it."""
        answer = list[int]()
        for token in [*self.tokenizer.encode(json.dumps(document)).ids, self._end]:
            allowed = mask(answer)
            assert allowed is not None
            if not allowed[token]:
                return False
            answer.append(token)
        return True


def judged(text: str, schema: Any) -> str:
    """What a whole document is: ``valid``, ``invalid``, ``cut`` where it is no JSON, or ``not judged``."""
    import jsonschema  # of an environment of its own

    try:
        document = json.loads(text)
    except ValueError:
        return "cut"
    judge = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        return "valid" if judge(schema).is_valid(document) else "invalid"
    except Exception:  # references to other documents, patterns that Python has not
        return "not judged"


def drawn(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, Any]]:
    """Schemas of a folder and of those below it, by chance; none of files that are too large to be asked for."""
    files = sorted(path for path in folder.rglob("*.json") if path.stat().st_size <= MAX_CHARACTERS)
    for path in random.Random(seed).sample(files, min(count, len(files))):
        data = json.loads(path.read_text(encoding="utf-8"))
        yield path, data.get("json_schema", data) if isinstance(data, dict) else data


def published(walks: Walks, folder: Path, count: int, each: int, seed: int) -> Counter[str]:
    """Counts over published schemas."""
    counts = Counter[str]()
    for path, schema in drawn(folder, count, seed):
        counts["schemas"] += 1
        try:
            walks.mask(schema)
        except UsageError as error:
            counts["refused"] += 1
            counts[f"refused: {str(error.got)[:60]}"] += 1
            continue
        counts["compiled"] += 1
        for number in range(each):
            counts["walks"] += 1
            try:
                text = walks.walk(walks.mask(schema), number)
            except UsageError:
                counts["too much work"] += 1
                continue
            what = "open" if text is None else judged(text, schema)
            counts[what] += 1
            if what in ("cut", "invalid"):
                print(f"{what}: {path.name}: {text}", flush=True)
    return counts


def suite(walks: Walks, folder: Path) -> Counter[str]:
    """Counts over the suite: groups that compile, and documents."""
    counts = Counter[str]()
    for path in sorted(folder.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            counts["groups"] += 1
            try:
                walks.mask(group["schema"])
            except UsageError:
                continue
            counts["compiled"] += 1
            for test in group["tests"]:
                taken = walks.takes(walks.mask(group["schema"]), test["data"])
                what = f"{'taken' if taken else 'not taken'}, {'valid' if test['valid'] else 'invalid'}"
                counts[what] += 1
                if what == "taken, invalid":
                    print(f"{what}: {path.name}: {group['description']}: {test['description']}", flush=True)
    return counts


def main() -> None:
    """Print counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schemas", type=Path)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=CHECKPOINT / "tokenizer.json")
    parser.add_argument("--end", default="<|im_end|>")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--walks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=58)
    options = parser.parse_args()
    walks = Walks(options.tokenizer, options.end)
    counts = published(walks, options.schemas, options.count, options.walks, options.seed)
    milliseconds = 1000 * np.array(walks.seconds)
    quantiles = dict(
        zip(("p50", "p99", "most"), np.quantile(milliseconds, (0.5, 0.99, 1)).round(2).tolist(), strict=True)
    )
    result = {"vocabulary": walks.tokenizer.get_vocab_size(), "published": counts, "mask_ms": quantiles}
    if options.suite is not None:
        result["suite"] = suite(walks, options.suite)
    print(json.dumps(result, indent=2))
    wrong = ("cut", "invalid", "taken, invalid")
    raise SystemExit(any(result.get(part, {}).get(name) for part in ("published", "suite") for name in wrong))


if __name__ == "__main__":
    main()
