"""Patterns whose masks take more work than llguidance allows by itself, and than is allowed here."""

from __future__ import annotations

HEAVY = r"((a|b|c|d)?(e|f|g)?.{0,20}){40}"
TOO_HEAVY = "(" + "|".join(f".{{0,{3 * place + 3}}}{chr(97 + place % 26)}" for place in range(800)) + "){30}"


def string_of(pattern: str) -> dict[str, str]:
    """The schema of strings that match."""
    return {"type": "string", "pattern": f"^{pattern}$"}
