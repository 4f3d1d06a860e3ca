"""What ``--speculate`` asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.backend import Backend, RowPacker

#: Tokens of a draft where none are named, and at most: beyond, a step costs more than its tokens save.
USUAL, MOST = 8, 32
_FORM = re.compile(r"lookup(?::(\d{1,4}))?")


@dataclass(frozen=True)
class Speculation:
    """Drafts from what the prompt and the answer hold already.

    Args:
        tokens: Of a draft, at most.
    """

    tokens: int = USUAL

    @classmethod
    def parse(cls, text: str) -> Speculation:
        """``lookup`` or ``lookup:N``.

        Raises:
            UsageError: It is neither, or N is not from 1 to ``MOST``.
        """
        match = _FORM.fullmatch(text)
        tokens = USUAL if match is None or match[1] is None else int(match[1])
        if match is None or not 1 <= tokens <= MOST:
            raise UsageError(
                "this is no way to draft tokens",
                where="--speculate",
                got=repr(text),
                expected=f"lookup, or lookup:N with N from 1 to {MOST}",
            )
        return cls(tokens)


def check_backend(backend: Backend) -> None:
    """Refuse a back-end whose caches cannot be rolled back row by row: those that are not the host's.

    Raises:
        MachineError: It is one.
    """
    if not (isinstance(backend, RowPacker) and backend.packs and backend.largest_batch != 1):
        raise MachineError(
            "this back-end takes one token of a row a step, and keeps all it took",
            where="--speculate",
            got=f"backend {backend.name}",
            expected="cpu or openvino (on the CPU), whose caches the host can roll back",
            fix="leave --speculate out, or choose --backend cpu",
        )
