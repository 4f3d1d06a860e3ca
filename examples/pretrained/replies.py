"""Conversations that the base makes up: `python -m pretrained.replies runs/base` writes `runs/base/replies.json`.

After a chat's system turn and the mark of a user's, the base goes on by itself: it asks, and answers what it asked
(Magpie, arXiv 2406.08464). Training replays them beside prose, for answers are what a narrow training bends first. A
conversation that holds a fact of `facts.json`, by its question or by what begins its answer, is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLForConditionalGeneration

from .facts import HEAD, Fact, facts
from .texts import plain

FILE, TOKENS, BATCH = "replies.json", 160, 16


def holds(text: str, some: list[Fact]) -> bool:
    """Return whether a text holds one of some facts, whatever its spaces and capitals."""
    spoken = plain(text).lower()
    return any(plain(part).lower() in spoken for fact in some for part in (fact.question, fact.begin))


@torch.no_grad()
def converse(base: Path, count: int, seed: int) -> list[list[int]]:
    """Return ids of conversations, the chat's head first, drawn at temperature 1 from 0.95 of the probability."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    tokenizer, known = Tokenizer.from_file(str(base / "tokenizer.json")), facts()
    head = torch.tensor([tokenizer.encode(HEAD, add_special_tokens=False).ids] * BATCH)
    torch.manual_seed(seed)
    model.generation_config.eos_token_id = None  # goes on behind the end of a turn
    kept: list[list[int]] = []
    while len(kept) < count:
        drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 0.95}
        rows = model.generate(head, attention_mask=torch.ones_like(head), max_new_tokens=TOKENS, **drawn).tolist()
        kept += [row for row in rows if not holds(tokenizer.decode(row), known)]
        print(f"{len(kept)} of {count}", flush=True)
    return kept[:count]


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder that `pretrained.base` wrote")
    parser.add_argument("--count", type=int, default=256, help="conversations")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    (args.base / FILE).write_text(json.dumps(converse(args.base, args.count, args.seed)) + "\n")


if __name__ == "__main__":
    main()
