"""One case through a session: kept tokens, text and logits, and whether they are those of the reference.

Limits are those of ``calibration.parity.tolerances`` for the coarser dtype of the two, with their reasons. A pack holds
few cases and no scores, so what differs is judged by what it does, where parity counts shares over many and knows which
scores tie:

- One kept token of an image may be another: two scores next to the last place tie. The logits follow it, so only what
  they predict is held against the reference then.
- More of them may be others only where the logits are within their limit all the same: what was swapped says the same.
- A word may be another only where the reference's own logits of the two are a tie.

Of a model that decodes nothing a case has vectors in the place of logits. They predict nothing: where one kept token is
another, the cosine and the length of each are held (``_vectors_apart``). Of a vector for every token those of tokens
that both keep are compared then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration.parity.metrics import difference, prediction
from luvc_export.calibration.parity.tolerances import Tolerances
from luvc_export.runtime.engine.embed import Vector, taker
from luvc_export.runtime.engine.job import Job
from luvc_export.runtime.engine.scheduler import Engine, began
from luvc_export.runtime.generation.sequence import GreedyTokens
from luvc_export.runtime.session import Session

#: How many times as far off as all vectors of a case together one of them may be: as ``worst_row`` of ``tolerances``,
#: but vectors of one model are of like lengths, and none is a small row among large ones.
_WORST_VECTOR = 2
#: How much a vector's length may differ at least: another kept token turns a vector and scales none, so that a tenth is
#: another arithmetic. Where limits let vectors be further off, it is that.
_LENGTH = 0.1


@dataclass(frozen=True)
class Answer:
    """What a model did with a case.

    Args:
        prompt_ids: Tokens of the prompt, a placeholder for each image.
        token_ids: What was said, greedily (as the decoder itself chose, where it does); the end token included.
        text: The same as text.
        logits: float32 [len(token_ids), vocab]: row i chose token i, after the reference's tokens before it. Of a model
            that decodes nothing its vectors, [n, D].
        kept: For each pruning layer with a budget above 0, int64 [G, keep]: visual tokens that enter it.
        milliseconds: Of ``vision``, ``prefill`` and every ``decode``.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    logits: NDArray[np.float32]
    kept: dict[int, NDArray[np.int64]]
    milliseconds: tuple[tuple[str, float], ...] = ()


def answer(
    session: Session, pictures: Sequence[Any], prompt: str, longest: int, forced: Sequence[int] | None = None
) -> Answer:
    """Answer a case with at most ``longest`` tokens.

    ``pictures`` are as ``Session.generate`` takes them. ``forced`` tokens are gone on with in place of its own, so that
    one that differs does not change all that follow.

    Raises:
        LuvcError: See ``Session.generate``.
    """
    chooser: GreedyTokens | Vector
    if session.bundle.manifest.does.decodes:
        request = session.prepare(list(pictures), prompt)
        session.token_limit(request, longest)
        loaded = session.plan_of(request)
        ends = session.bundle.manifest.prompt.eos_token_ids if forced is None else ()
        chooser = GreedyTokens(longest if forced is None else len(forced), ends, forced, keep_logits=True)
    else:
        loaded, request = session.ready(pictures, prompt or None)
        chooser = taker(loaded, request)
    engine, job = Engine(answers=1), Job(loaded, request, lambda room: [chooser])
    engine.submit(job)
    prefilled, (grown,) = began(engine.step(), job)
    times = [("vision", prefilled.vision_ms), ("prefill", prefilled.prefill_ms)]
    while not grown.ended:
        started = perf_counter()
        engine.step()
        times.append(("decode", (perf_counter() - started) * 1000))
    grown.check()
    if isinstance(chooser, Vector):
        assert chooser.value is not None
        return Answer(tuple(request.token_ids), (), "", np.atleast_2d(chooser.value), prefilled.kept, tuple(times))
    text = session.encoder.tokenizer.decode(chooser.ids)
    logits = np.stack(chooser.logits)
    return Answer(tuple(request.token_ids), tuple(chooser.ids), text, logits, prefilled.kept, tuple(times))


@dataclass(frozen=True)
class Verdict:
    """One case: why it failed (nothing: it passed), and the figures whatever the outcome.

    Args:
        reasons: What is out of bounds.
        rel_l2: Relative L2 error of the logits.
        kl: Largest KL divergence of a step, in nats.
        overlap: Share of kept visual tokens in common.
        tokens: Share of words in common.
    """

    reasons: tuple[str, ...]
    rel_l2: float
    kl: float
    overlap: float
    tokens: float

    @property
    def passed(self) -> bool:
        """Whether nothing is out of bounds."""
        return not self.reasons


def compare_answers(reference: Answer, candidate: Answer, limits: Tolerances) -> Verdict:
    """Compare ``candidate``, which was told the reference's tokens, with ``reference``."""
    if candidate.prompt_ids != reference.prompt_ids:
        return Verdict(("the prompt has other tokens than the reference's",), np.inf, np.inf, 0.0, 0.0)
    apart, worded = difference(reference.logits, candidate.logits), len(reference.token_ids) > 0
    error = apart.rel_l2
    kl = prediction(reference.logits, candidate.logits).kl if worded else 0.0
    worst, overlap, reasons = _kept(reference, candidate)
    if worst > 1 and not error <= limits.rel_l2.value:
        reasons.append(f"{worst} tokens of one image are not those the reference keeps, and the logits show it")
    if worst != 1 and not error <= limits.rel_l2.value:
        reasons.append(
            f"{'logits' if worded else 'vectors'} differ by {error:.1e}, the limit is {limits.rel_l2.value:.0e}"
        )
    if not kl <= limits.kl.value:
        reasons.append(f"KL divergence {kl:.1e}, the limit is {limits.kl.value:.0e}")
    reasons += [] if worded else _vectors_apart(*_of_same_tokens(reference, candidate), limits)
    same = np.array(reference.token_ids) == np.array(candidate.token_ids)
    for step in np.flatnonzero(~same):
        gap = _gap(reference, candidate, int(step))
        if not gap <= limits.tie.value:
            reasons.append(
                f"word {step + 1} is another, though the reference is sure by {gap:.1e} of its largest logit, "
                f"more than {limits.tie.value:.0e}"
            )
    return Verdict(tuple(reasons), error, kl, overlap, float(same.mean()) if worded else 1.0)


def _kept(reference: Answer, candidate: Answer) -> tuple[int, float, list[str]]:
    """The most tokens of one image and prune that are others, the share in common of all, and what is out of bounds."""
    layers, wanted = sorted(candidate.kept), sorted(reference.kept)
    if layers != wanted or any(candidate.kept[layer].shape != reference.kept[layer].shape for layer in layers):
        shapes = [{layer: kept.shape for layer, kept in answer.kept.items()} for answer in (candidate, reference)]
        return 0, 0.0, [f"kept tokens by layer {shapes[0]}, the reference has {shapes[1]}"]
    pairs = [pair for layer in layers for pair in zip(reference.kept[layer], candidate.kept[layer], strict=True)]
    others = [len(np.setdiff1d(theirs, ours)) for theirs, ours in pairs]
    total = sum(len(theirs) for theirs, _ in pairs)
    return max(others, default=0), 1 - sum(others) / total if total else 1.0, []


def _of_same_tokens(reference: Answer, candidate: Answer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of both: where each token has one, without those of visual tokens that one of them alone keeps."""
    left, right = reference.logits, candidate.logits
    layers = [layer for layer in reference.kept if layer in candidate.kept]
    if not layers or left.shape != right.shape:
        return left, right
    ours, theirs = reference.kept[max(layers)], candidate.kept[max(layers)]
    text = len(reference.prompt_ids) - len(ours)  # behind the vectors of images, which have a placeholder each
    if ours.shape != theirs.shape or len(left) != ours.size + text:
        return left, right
    shared = [np.isin(one, two) for one, two in zip(ours, theirs, strict=True)]
    others = [np.isin(two, one) for one, two in zip(ours, theirs, strict=True)]
    rest = [np.ones(text, bool)]
    return left[np.concatenate([*shared, *rest])], right[np.concatenate([*others, *rest])]


def _vectors_apart(left: NDArray[np.float32], right: NDArray[np.float32], limits: Tolerances) -> list[str]:
    """What is out of bounds of vectors [n, D]: their cosine, or of one of them the cosine or the length."""
    cosine, limit = difference(left, right).cosine, limits.cosine.value
    if not cosine >= limit:
        return [f"the cosine of vectors is {cosine:.6f}, the limit is {limit:g}"]
    lengths = [np.maximum(np.linalg.norm(one.astype(np.float64), axis=1), 1e-30) for one in (left, right)]
    cosines = (left.astype(np.float64) * right).sum(1) / (lengths[0] * lengths[1])
    ratios = np.maximum(lengths[0] / lengths[1], lengths[1] / lengths[0])
    turned, stretched, many, reasons = int(np.argmin(cosines)), int(np.argmax(ratios)), len(left), []
    if many > 1 and not cosines[turned] >= (least := 1 - _WORST_VECTOR**2 * (1 - limit)):
        reasons.append(f"the cosine of vector {turned + 1} of {many} is {cosines[turned]:.6f}, the limit is {least:g}")
    if not ratios[stretched] <= (most := 1 + max(_LENGTH, limits.rel_l2.value)):
        times = f"{ratios[stretched]:.3f} times, the limit is {most:g}"
        reasons.append(f"the length of vector {stretched + 1} of {many} differs {times}")
    return reasons


def _gap(reference: Answer, candidate: Answer, step: int) -> float:
    """How much surer the reference is of its own word than of the other, relative to its largest logit."""
    logits = reference.logits[step]
    return float((logits.max() - logits[candidate.token_ids[step]]) / max(1e-9, np.abs(logits).max()))
