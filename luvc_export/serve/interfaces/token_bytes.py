"""The bytes one token stands for, which may be part of a character."""

from __future__ import annotations

import re
from functools import lru_cache

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as a letter: printable ones as themselves, the others from U+0100 on (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in plain]
    return {chr(value): value for value in plain} | {chr(256 + at): value for at, value in enumerate(others)}


@lru_cache(maxsize=65536)
def _bytes(kind: str, letters: str) -> bytes:
    if kind == "ByteLevel" and all(letter in _alphabet() for letter in letters):
        return bytes(_alphabet()[letter] for letter in letters)
    if match := _BYTE.fullmatch(letters):
        return bytes([int(match[1], 16)])
    return letters.replace("\u2581", " ").encode("utf-8", "replace")


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """Bytes of ``token``; none for an id that the tokenizer does not have. Special tokens are their names."""
    letters = tokenizer.id_to_token(token)
    return b"" if letters is None else _bytes(_decoder(tokenizer), letters)


def _decoder(tokenizer: Tokenizer) -> str:
    """Whether the tokenizer writes bytes as letters."""
    decoder = tokenizer.decoder
    if decoder is None:
        return ""
    return "ByteLevel" if b"ByteLevel" in decoder.__getstate__() else "other"
