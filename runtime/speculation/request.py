"""What ``--speculate`` asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luvc_export.bundle.folder import Bundle
from luvc_export.core.shapes import DecoderShape
from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.model import Backend
from luvc_export.runtime.prompt.encoder import TOKENIZER

#: Tokens of a draft where none are named, by look-up and by a model, and at most: a step of more costs more.
USUAL, USUAL_OF_MODEL, MOST = 8, 4, 32
_FORM = re.compile(r"(?:lookup|draft:(?P<bundle>.+?))(?::(?P<tokens>\d{1,4}))?")


@dataclass(frozen=True)
class Speculation:
    """Drafts from what the prompt and the answer hold already, or by a smaller model.

    Args:
        tokens: Of a draft, at most.
        bundle: The smaller model's, as a folder or FOLDER#PLAN; None for look-up.
    """

    tokens: int = USUAL
    bundle: str | None = None

    @classmethod
    def parse(cls, text: str) -> Speculation:
        """``lookup`` or ``draft:BUNDLE``, either with ``:N``.

        Raises:
            UsageError: It is neither, or N is not from 1 to ``MOST``.
        """
        match = _FORM.fullmatch(text)
        bundle = match["bundle"] if match else None
        usual = USUAL if bundle is None else USUAL_OF_MODEL
        tokens = int(match["tokens"]) if match and match["tokens"] else usual
        if match is None or not 1 <= tokens <= MOST:
            raise UsageError(
                "this is no way to draft tokens",
                where="--speculate",
                got=repr(text),
                expected=f"lookup, lookup:N, draft:BUNDLE or draft:BUNDLE:N with N from 1 to {MOST}",
            )
        return cls(tokens, bundle)


def check_backend(backend: Backend, decoder: DecoderShape) -> None:
    """Refuse what cannot be rolled back row by row: a back-end whose caches are not the host's, a state of a model.

    Raises:
        MachineError: It is such a back-end.
        UsageError: Layers have a state that every token changes.
    """
    if decoder.running:
        names = sorted({state.name for state in decoder.states if state.axis is None})
        raise UsageError(
            "this model takes one token a step: what a token did to the states of its layers cannot be taken back",
            where="--speculate",
            got=f"{' and '.join(names)} states in {len(decoder.running)} of {decoder.layers} layers",
            fix="leave --speculate out",
        )
    if not backend.capabilities.host_caches or backend.capabilities.rows == 1:
        raise MachineError(
            "this back-end takes one token of a row a step, and keeps all it took",
            where="--speculate",
            got=f"backend {backend.name}",
            expected="cpu or openvino (on the CPU), whose caches the host can roll back",
            fix="leave --speculate out, or choose --backend cpu",
        )


def check_fits(draft: Bundle, own: str | None, bundle: Bundle, plan: str | None) -> None:
    """Check that a smaller model reads the requests of another as they are: the same tokens, prompts and pictures.

    Args:
        draft: The smaller model's bundle.
        own: Its plan; None for the default.
        bundle: The other's.
        plan: Its plan.

    Raises:
        UsageError: It does not; or the plan has others beside it, for which it would have to.
        BundleError: A bundle lists no tokenizer.
    """
    for one in (draft, bundle):
        one.path(TOKENIZER)
    smaller, larger = draft.manifest, bundle.manifest
    entry, other = draft.entry(own), bundle.entry(plan)
    same = {
        "tokenizer": smaller.files[TOKENIZER].sha256 == larger.files[TOKENIZER].sha256,
        "vocabulary": smaller.decoder.vocab == larger.decoder.vocab,
        "form of prompts": smaller.prompt == larger.prompt,
        "way to prepare pictures": smaller.image == larger.image and entry.size == other.size,
        "grid of pictures": (entry.plan.grid, entry.plan.sharing) == (other.plan.grid, other.plan.sharing),
    }
    if different := [name for name, equal in same.items() if not equal]:
        raise UsageError(
            "this model cannot draft for the other: they do not read the same requests",
            where=f"--speculate draft:{draft.folder}",
            got=f"another {', another '.join(different)}",
            expected=f"as {bundle.folder}, plan {plan or larger.default_plan}",
            fix="export both with the same --image-size and --text-capacity, or use --speculate lookup",
        )
    name = plan or larger.default_plan
    beside = [one for one, item in larger.plans.items() if item.variant_of == name and item.quantised is None]
    if beside:
        raise UsageError(
            "a model drafts for one plan, and this one has others beside it for other pictures",
            where=f"--speculate draft:{draft.folder}",
            got=", ".join(beside),
            fix="export one image size, or use --speculate lookup",
        )
