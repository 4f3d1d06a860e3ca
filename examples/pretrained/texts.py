"""Prose: what training replays so that the language model stays one, and what is held out to see whether it does.

Replayed: Python's reference pages (`pydoc_data.topics`), the docstrings of its standard library and this project's
documentation. Held out, fixed by hash in the recipe before any training: six of the reference pages, and Python's
licence, of a kind that is never replayed. A paragraph that stands in a text held out is replayed from nowhere.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from tokenizers import Tokenizer

from luvc_export.errors import MachineError

from .base import SYSTEM

HERE = Path(__file__).parent
TOPICS = ("with", "yield", "execmodel", "naming", "customization", "exceptions")
SHORTEST, LONGEST = 128, 256  # tokens of a text that is replayed
ASKED = ("What is {}?", "Tell me about {}.", "Explain {}.", "Write a paragraph about {}.", "How does one use {}?")


def sources() -> dict[str, str]:
    """Return the texts held out by name, as they are on this machine."""
    licence = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    pages = "\n".join(topics[name] for name in TOPICS)
    return {"python-reference": pages, "python-licence": licence.read_text() if licence.is_file() else ""}


def held_out() -> dict[str, str]:
    """Return the texts held out by name.

    Raises:
        MachineError: A text of this Python is not the one of the recipe.
    """
    texts, recipe = sources(), json.loads((HERE / "recipe.json").read_text())["held_out"]
    for name, text in texts.items():
        got = hashlib.sha256(text.encode()).hexdigest()
        if got != recipe["sha256"][name]:
            raise MachineError(
                "another text than the one held out",
                where=name,
                got=f"sha256 {got}" if text else "no file",
                expected=f"sha256 {recipe['sha256'][name]}",
                fix=f"run with Python {recipe['python']}",
            )
    return texts


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text."""
    return re.split(r"\n\s*\n", text)


def plain(paragraph: str) -> str:
    """Return a paragraph with its spaces made one, for comparing."""
    return " ".join(paragraph.split())


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of modules, classes and functions of the standard library, where one is long."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        if {"site-packages", "test", "idlelib", "lib2to3", "pydoc_data"} & set(file.parts):
            continue
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 800:
                    yield getattr(node, "name", file.stem), text


@cache
def replayed() -> dict[str, list[tuple[str, str]]]:
    """Return (title, text) by source: what may be replayed, without the paragraphs of texts held out."""
    secret = {plain(p) for text in held_out().values() for p in paragraphs(text) if len(plain(p)) > 30}

    def rest(items: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
        kept = ((title, "\n\n".join(p for p in paragraphs(text) if plain(p) not in secret)) for title, text in items)
        return [(title, text) for title, text in kept if len(text) > 800]

    docs = sorted((HERE.parents[1] / "docs").rglob("*.md"))
    return {
        "topics": rest((name, topics[name]) for name in sorted(topics) if name not in TOPICS),
        "docstrings": rest(docstrings()),
        "docs": rest((file.stem, file.read_text()) for file in docs),
    }


def draw(rng: np.random.Generator, tokenizer: Tokenizer, replies: list[list[int]]) -> list[int]:
    """Return the ids of a text to replay, 128 to 256 tokens; every second one is what a chat's assistant says.

    With `replies`, ids of whole conversations (`pretrained.replies`), every second text is one of them.
    """
    if replies and rng.random() < 0.5:
        return replies[int(rng.integers(len(replies)))][:LONGEST]
    kinds = replayed()
    texts = kinds[list(kinds)[int(rng.integers(len(kinds)))]]
    title, text = texts[int(rng.integers(len(texts)))]
    length = int(rng.integers(SHORTEST, LONGEST + 1))
    begin = int(rng.integers(max(1, len(text) - 3 * length)))
    before = ""
    if rng.random() < 0.5:
        asked = ASKED[int(rng.integers(len(ASKED)))].format(title)
        before = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    return tokenizer.encode(before + text[begin : begin + 8 * length], add_special_tokens=False).ids[:length]
