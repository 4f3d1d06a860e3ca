"""A client's schema, pattern or grammar is tried in a helper first: nothing in llguidance can be interrupted.

41 bytes of a schema (``multipleOf``) took it 15 s and 280 MB, 36 KB of a grammar 3 s for one mask, and a chain of 3,000
rules overflows its stack, which ends the process. What a helper compiles within the limits takes as little here.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from luvc_export.errors import LuvcError, UsageError
from luvc_export.runtime.confined.helpers import NICE, Helpers, TooMuchError
from luvc_export.runtime.generation.grammar_text import no_grammar

#: Characters of a schema, pattern or grammar.
MAX_CHARACTERS = 100_000
#: Seconds of computing and bytes for one grammar and its first mask.
SECONDS, MEMORY = 2.0, 2**25
#: Verdicts that are remembered, and characters of all of them.
MOST_KEPT, MOST_CHARACTERS = 256, 2**22
#: Seconds for which a limit's verdict is remembered: a machine that others keep busy computes for longer.
TOO_MUCH_KEPT = 60.0
#: Of a helper: bytes, with the tokenizers that it has read, and seconds, with reading one.
_HELPER_MEMORY, _HELPER_SECONDS = 2**30, 10.0
TOO_MUCH = "this takes too much work to compile"
_FIX = "simplify it: fewer properties and branches, no repetitions inside repetitions, no multipleOf of a large number"
_helpers = Helpers("luvc_export.runtime.generation.grammar_task", _HELPER_MEMORY, _HELPER_SECONDS, most=2, nice=NICE)


class Written(NamedTuple):
    """A grammar that compiles, and the tools whose schemas it does not hold."""

    grammar: str
    unheld: tuple[str, ...] = ()


class GrammarTrials:
    """Writes the grammars of one tokenizer. Threads may share it.

    Args:
        tokenizer: The bundle's, from ``tokenizer.json``.
        vocab: Logits of a step.
        ends: Tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int, ends: list[int]) -> None:
        self._tokenizer, self._facts = tokenizer, {"vocab": vocab, "ends": ends}
        self._digest = ""
        self._verdicts: OrderedDict[tuple[str, str], Written | UsageError] = OrderedDict()
        self._until: dict[tuple[str, str], float] = {}
        self._characters, self._lock = 0, threading.Lock()

    def written(self, where: str, asked: Any) -> Written:
        """What ``grammar_text.grammar_of`` writes of it, known to compile within the limits.

        Raises:
            UsageError: It is too long, takes more than ``SECONDS`` or ``MEMORY``, or see ``grammar_of``.
            MachineError: No helper can be started here, or see ``grammar_of``.
        """
        check_length(where, asked)
        try:
            text = json.dumps(asked, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise no_grammar(where, str(error)) from error
        with self._lock:
            verdict = self._verdicts.get((where, text))
            if monotonic() > self._until.get((where, text), inf):
                verdict = None
            if verdict is not None:
                self._verdicts.move_to_end((where, text))
        if verdict is None:
            verdict = self._tried(where, text)
            self._keep((where, text), verdict)
        if isinstance(verdict, UsageError):
            raise verdict.with_traceback(None)
        return verdict

    def _tried(self, where: str, text: str) -> Written | UsageError:
        self._digest = self._digest or hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()
        request = {"where": where, "asked": text, "tokenizer": self._digest, **self._facts}
        request |= {"seconds": SECONDS, "memory": MEMORY}
        try:
            reply, _ = _helpers.call(request)
            if "unknown" in reply:
                reply, _ = _helpers.call(request, self._tokenizer.to_str().encode())
        except TooMuchError as error:
            got = f"more than {SECONDS:g} s of computing" if error.late else str(error)
            most = f"at most {SECONDS:g} s and {MEMORY // 2**20} MiB to compile"
            return UsageError(TOO_MUCH, where=where, got=got, expected=most, fix=_FIX)
        if "grammar" in reply:
            return Written(str(reply["grammar"]), tuple(map(str, reply.get("unheld", ()))))
        refused = LuvcError.from_json(reply)
        assert isinstance(refused, UsageError)
        return refused

    def _keep(self, key: tuple[str, str], verdict: Written | UsageError) -> None:
        """Remember it in the place of those that were not asked for the longest."""
        with self._lock:
            if key in self._verdicts:
                self._forget(key)
            self._verdicts[key] = verdict
            if isinstance(verdict, UsageError) and verdict.what == TOO_MUCH:
                self._until[key] = monotonic() + TOO_MUCH_KEPT
            self._characters += self._size(key)
            while len(self._verdicts) > MOST_KEPT or self._characters > MOST_CHARACTERS:
                self._forget(next(iter(self._verdicts)))

    def _forget(self, key: tuple[str, str]) -> None:
        self._characters -= self._size(key)
        del self._verdicts[key]
        self._until.pop(key, None)

    def _size(self, key: tuple[str, str]) -> int:
        return len(key[1]) + len(str(self._verdicts[key]))


def check_length(where: str, asked: Any) -> None:
    """Refuse what has more than ``MAX_CHARACTERS``, before it is written: values and letters are counted until then.

    Raises:
        UsageError: It has.
    """
    waiting, count = [asked], 0
    while waiting and count <= MAX_CHARACTERS:
        one = waiting.pop()
        if isinstance(one, dict):
            count += sum(map(len, one)) + 2 * len(one)
            waiting += one.values()
        elif isinstance(one, list):
            count += 2 * len(one)
            waiting += one
        else:
            count += len(one) if isinstance(one, str) else 1
    if count > MAX_CHARACTERS:
        most, fix = f"at most {MAX_CHARACTERS:,}", "name fewer properties and values, and shorter ones"
        raise UsageError("this is too long", where=where, got=f"{count:,} characters or more", expected=most, fix=fix)
