"""Texts that tokenizers read differently where one rule of theirs differs: what a saved tokenizer is compared on."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

#: Composed and decomposed letters, digits in groups and in other scripts, scripts without blanks, marks that join,
#: blanks of all kinds, what regular expressions split at, and what sanitisers change.
_PARTS = (
    "caf\u00e9", "cafe\u0301", "\u212b \u00c5 A\u030a", "\ufb01 \u2460 \u33a1", "\u1100\u1161\u11a8 \uac01", "0",
    "42", "123", "1234", "12345678901", "3.14159", "1,234,567.89", "1e-9", "0x1F", "v2.0.1", "10:30",
    "\u0664\u0665\u0666", "\u0967\u0968\u0969", "\u00bd \u00b2 \u2163", "2024-01-31", "+49 (0)30 1234",
    "What is in the picture?", "HELLO World", "iPhone camelCase snake_case kebab-case", "\u0130stanbul \u0131",
    "\u00df \u1e9e STRASSE", "I'm you're THEY'LL don't Isn't", "it\u2019s \u2018so\u2019 \u201cquoted\u201d",
    "e.g. this , that .", " n't 've . ? !", "a.b,c;d:e!f?g", "(a)[b]{c}<d>", "!!! ??? ... ---", "#tag @name $5 50%",
    "a+b=c", "x^2 \\frac{1}{2} $\\alpha$", "C:\\temp\\new", "https://example.org/a?b=c&d=%20#e", "a@b.example",
    "<b>bold</b> &amp; &lt;", "{\"key\": [1, null, true]}", "def f(x):\n    return x\n", "\tif\t(a)\t{\n\t\tb;\n\t}",
    "| a | b |\n|---|---|", "- one\n- two\n\n1. three", "```py\ncode\n```", "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\u041f\u0440\u0438\u0432\u0435\u0442 \u0401\u0436\u0438\u043a",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u03c2\u03c3", "\U0001f600\U0001f44d\U0001f3fd",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\U00020bb7",
    "\U0001d400\U0001d401", "a\u00adb", "a\u200bb", "a\u200db", "\u202eabc\u202c", "\ufeffabc", "a\u0000b",
    "\u0007\u001b[0m", "\ufffd", "a\u00a0b", "a\u3000b", "a\u2003b", "a\u2028b\u2029c", "a\u0085b", "\u2581a \u2581",
    "\u0120a \u010a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "zzyzx qwrtpsdf", "\u2014 \u2013 \u2026 \u2022 \u00b7",
    "\u20ac\u00a3\u00a5 \u2122\u00ae", "\u2190\u2192 \u2264\u2265\u2260 \u221e",
)  # fmt: skip
_BLANKS = ("", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\r\n", "\t", " \n ", "\n ", " \t ", "        ")
_AROUND = ("@", "a @ b", "a  @\n\nb", "a@b", " @ @ ", "@\n")


def hard_texts(tokens: Iterable[str]) -> list[str]:
    """250 texts, and those of ``tokens`` (the added ones) alone, amid blanks, inside words and in pairs."""
    texts = [*_PARTS, *(f" {part}\n" for part in _PARTS), *(f"{blank}a{blank}b{blank}" for blank in _BLANKS), *_BLANKS]
    texts += [f"{part}{part.swapcase()} 7{part}" for part in _PARTS]
    texts += [" ".join(_PARTS), "\n".join(_PARTS)]
    added = [*tokens]
    texts += [form.replace("@", token) for token in added for form in _AROUND]
    return [*texts, *map("".join, pairwise(added))]
