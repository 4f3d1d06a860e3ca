"""Inputs -> vectors: each is a job of the engine whose answer has ended once its prompt has run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.folder import Bundle
from luvc_export.core.plan import Plan
from luvc_export.core.tasks import Embedding
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.runtime.engine.job import Began, Job, Refused
from luvc_export.runtime.engine.scheduler import Engine
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.media.pictures import Picture
from luvc_export.runtime.model import StepResult
from luvc_export.runtime.prompt.question import OpenedQuestion
from luvc_export.runtime.prompt.request import Request, open_media
from luvc_export.runtime.prompt.vector_chat import input_chat, instruction_of

if TYPE_CHECKING:
    from luvc_export.runtime.engine.vector_form import VectorOptions

#: Inputs that run in one call at most: their texts are padded to the longest, their pictures encoded together.
BATCH = 8


class Vector:
    """What a prompt gives, in the place of tokens. Follows ``TokenChooser``.

    Args:
        shown: Which vectors of images show more than padding, bool [n]; None for all, or where there is one vector.
        pool: Merge those of images to one for so many (``clusters.pooled``).
        text: Vectors of text.

    Attributes:
        value: float32 [D], or [n, D] of every token, once it is there (``done``).
    """

    wants_logits, newest, budget = True, 0, 0
    prompt: Sequence[int] = ()

    def __init__(self, shown: NDArray[np.bool_] | None = None, pool: int = 1, text: int = 0) -> None:
        self.ids: list[int] = []
        self.done = False
        self._shown, self._pool, self._text = shown, pool, text
        self.value: NDArray[np.float32] | None = None

    def certain(self) -> Sequence[int]:
        """See ``TokenChooser``."""
        return ()

    def take(self, step: StepResult) -> None:
        """Keep the row.

        Raises:
            CheckFailed: It is not finite.
        """
        assert step.logits is not None
        if not np.isfinite(step.logits).all():
            raise CheckFailed(
                "a vector is not finite",
                where="embed",
                got="NaN or infinity",
                expected="finite numbers",
                fix="export in fp32 (--dtype), or choose another back-end or arithmetic",
            )
        rows = step.logits if self._shown is None else shown_rows(step.logits, self._shown)
        if self._pool != 1:
            from luvc_export.runtime.engine.clusters import pooled  # which few sessions need

            rows = pooled(rows, len(rows) - self._text, self._pool)
        self.value, self.done = np.array(rows, np.float32), True


class Embeds:
    """What a session does where nothing is decoded."""

    default: LoadedPlan

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self.default.bundle

    def fit(self, asked: OpenedQuestion, loaded: LoadedPlan | None = None) -> tuple[LoadedPlan, Request]:
        """A question made ready for the plan that fits it."""
        raise NotImplementedError

    def embed(
        self,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        pairs: Sequence[tuple[Picture, str]] | None = None,
        *,
        prompt: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        embed_dtype: str = "float32",
        batch: int = BATCH,
    ) -> NDArray[Any]:
        """One vector for each input, of pictures, of texts, or of pairs of both.

        Args:
            images: Pictures (path, bytes, PIL image, array), one an input.
            texts: Texts, likewise.
            pairs: A picture and a text each, which are one input together.
            prompt: Name of one of the bundle's instructions (``Embedding.prompts``); None for its default one.
            instruction: The instruction itself, in its place.
            dimensions: Numbers of a vector, one of the bundle's Matryoshka sizes; None for all.
            embed_dtype: ``float32``, ``float16``, ``int8`` or ``binary``, see ``vector_form.pack``.
            batch: Inputs that run in one call at most.

        Returns:
            float32 [N, D] in the order of the inputs, of length 1 where the bundle normalises; or as ``pack`` has it.

        Raises:
            UsageError: The bundle's task is another; there is not one kind of input, or none; an instruction or a size
                that the bundle does not name; or see ``Session.generate``.
            CheckFailed: A vector is not finite.
            MachineError: See ``Session``.
        """
        from luvc_export.runtime.engine.vector_form import VectorOptions, check_options, cut, pack  # none that answers

        self.bundle.check_task("embed")
        how = embedding_of(self.bundle)
        wanted = VectorOptions(prompt=prompt, instruction=instruction, dimensions=dimensions, embed_dtype=embed_dtype)
        system = check_options(self.bundle, wanted)
        parts = _inputs("embed", batch, images=images, texts=texts, pairs=pairs)
        return pack(cut(how, np.stack(self._vectors(how, system, parts, batch)), dimensions), embed_dtype)

    def embed_many(
        self,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        *,
        embed_dtype: str = "float32",
        pool: int = 1,
        batch: int = BATCH,
    ) -> list[NDArray[Any]]:
        """A vector of every token of each page or each query, where the bundle's task is ``embed-many``.

        Args:
            images: Pages, as of ``embed``.
            texts: Queries, likewise.
            embed_dtype: As of ``embed``.
            pool: Merge a page's visual vectors to one for so many, alike ones together (``clusters.pooled``).
            batch: Inputs that run in one call at most.

        Returns:
            float32 [n, D], or as ``embed_dtype`` says, of each input, a page's visual vectors first, row by row; those
            of padding are left out.

        Raises:
            UsageError: As ``embed``.
            CheckFailed: As ``embed``.
            MachineError: See ``Session``.
        """
        from luvc_export.runtime.engine.vector_form import VectorOptions, check_options, pack

        self.bundle.check_task("embed-many")
        check_options(self.bundle, VectorOptions(embed_dtype=embed_dtype, pool=pool))
        parts = _inputs("embed", batch, images=images, texts=texts)
        return [pack(one, embed_dtype) for one in self._vectors(embedding_of(self.bundle), "", parts, batch, pool=pool)]

    def score(
        self,
        query: str,
        images: Sequence[Picture] | None = None,
        texts: Sequence[str] | None = None,
        pairs: Sequence[tuple[Picture, str]] | None = None,
        *,
        prompt: str | None = None,
        instruction: str | None = None,
        batch: int = BATCH,
    ) -> NDArray[np.float32]:
        """How well each document answers a query: a chance where the bundle's task is ``rerank``, else a product.

        Args:
            query: What is searched for.
            images: Documents, as of ``embed``.
            texts: Likewise.
            pairs: Likewise.
            prompt: As of ``embed``; of the query where it has a vector of its own.
            instruction: As of ``embed``, likewise.
            batch: Documents that run in one call at most.

        Returns:
            float32 [N] in the order of the documents: between 0 and 1 where the model judges pairs, else the product
            of the query's vector with the document's, or ``late_interaction`` where there are many of both.

        Raises:
            UsageError: As ``embed``; or the bundle generates.
            CheckFailed: As ``embed``.
            MachineError: See ``Session``.
        """
        if self.bundle.manifest.does.decodes:
            self.bundle.check_task("rerank")
        how = embedding_of(self.bundle)
        check_query(query)
        parts = _inputs("score", batch, images=images, texts=texts, pairs=pairs)
        system = instruction_of(how, prompt) if instruction is None else instruction
        if how.pair is not None:
            return chance(np.concatenate(self._vectors(how, system, parts, batch, query)))
        (asked,) = self._vectors(how, system, [(None, query)], batch)
        if how.pooling == "every":
            return late_interaction(asked, self._vectors(how, "", parts, batch))
        documents = np.stack(self._vectors(how, instruction_of(how), parts, batch))
        return np.asarray(documents @ asked, np.float32)

    def _vectors(
        self,
        how: Embedding,
        system: str,
        parts: Sequence[tuple[Picture | None, str | None]],
        batch: int,
        query: str | None = None,
        pool: int = 1,
    ) -> list[NDArray[np.float32]]:
        ready = [self.ready([] if image is None else [image], text, system, query) for image, text in parts]
        return [vector for first in range(0, len(ready), batch) for vector in run(ready[first : first + batch], pool)]

    def ready(
        self, images: Sequence[Picture], text: str | None, system: str | None = None, query: str | None = None
    ) -> tuple[LoadedPlan, Request]:
        """An input made ready to run; ``system`` is its instruction, None for the bundle's default one.

        Raises:
            UsageError: See ``embed``.
        """
        how = embedding_of(self.bundle)
        asked = input_chat(how, images, text, instruction_of(how) if system is None else system, query)
        loaded, request = self.fit(open_media(asked, self.bundle.manifest))
        loaded.token_limit(request)
        return loaded, request


def rows_of(session: Embeds, wanted: VectorOptions, **inputs: Any) -> list[NDArray[Any]]:
    """Vectors [n, D] of each of ``images``, ``texts`` or ``pairs``, as ``wanted.embed_dtype`` has them; n is 1 of one.

    Raises what ``Embeds.embed`` raises, and UsageError for pairs of a model with a vector of every token.
    """
    from luvc_export.runtime.engine.vector_form import check_options

    check_options(session.bundle, wanted)
    if session.bundle.manifest.does.pooling == "every":
        if "pairs" in inputs:
            what, fix = "a page and a query have vectors of their own", "send pictures, or texts"
            raise UsageError(what, where="prompt", got="pictures with a text each", fix=fix)
        return session.embed_many(**inputs, embed_dtype=wanted.embed_dtype, pool=wanted.pool)
    how = {name: value for name, value in vars(wanted).items() if name != "pool"}
    rows = session.embed(**inputs, **how)
    return [rows[at : at + 1] for at in range(len(rows))]


def taker(loaded: LoadedPlan, request: Request, pool: int = 1) -> Vector:
    """What takes the vectors of a request: none of those that show padding alone, which would win a maximum."""
    cells = shown_cells(embedding_of(loaded.bundle), loaded.plan, request)
    text = len(request.token_ids) - len(request.images)
    return Vector(None if cells is None else cells.reshape(-1), pool, text)


def shown_rows(rows: NDArray[Any], shown: NDArray[np.bool_]) -> NDArray[Any]:
    """Rows [n, D] but for those of images, which come first, that ``shown`` [m] leaves out."""
    return np.concatenate([rows[: len(shown)][shown], rows[len(shown) :]])


def shown_cells(how: Embedding, plan: Plan, request: Request) -> NDArray[np.bool_] | None:
    """Cells of each image (``Embedding.merged``) that show more than padding, bool [n, rows, columns].

    None where there is one vector, nobody looked for padding, or visual vectors are not those of cells.
    """
    if how.pooling != "every" or request.padding is None or plan.keep[-1] != plan.units:
        return None
    void, (high, wide) = request.padding, how.merged
    below, right = -void.shape[1] % high, -void.shape[2] % wide
    void = np.pad(void, ((0, 0), (0, below), (0, right)), constant_values=True)
    cells = void.reshape(len(void), void.shape[1] // high, high, void.shape[2] // wide, wide)
    return np.asarray(~cells.all((2, 4)))


def _job(loaded: LoadedPlan, request: Request, pool: int) -> Job:
    return Job(loaded, request, lambda room: [taker(loaded, request, pool)])


def run(ready: Sequence[tuple[LoadedPlan, Request]], pool: int = 1) -> list[NDArray[np.float32]]:
    """Vectors of some inputs, float32 [D], or [n, D] of each; those of one plan with equally many images share a call.

    Raises what ``Embeds.embed`` raises.
    """
    engine, jobs = Engine(together=True), [_job(*one, pool) for one in ready]
    vectors: dict[Job, NDArray[np.float32]] = {}
    for job in jobs:
        engine.submit(job)
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, Refused):
                raise event.error
            if isinstance(event, Began):
                (answer,) = event.answers
                answer.check()
                assert isinstance(answer.chooser, Vector) and answer.chooser.value is not None
                vectors[event.job] = answer.chooser.value
    return [vectors[job] for job in jobs]


def _inputs(where: str, batch: int, **kinds: Any) -> list[tuple[Picture | None, str | None]]:
    """A picture, a text or both of each input.

    Raises:
        UsageError: There is not one kind of input, or none.
    """
    stated = [(name, one) for name, one in kinds.items() if one is not None]
    if len(stated) != 1 or isinstance(stated[0][1], str | bytes) or not len(stated[0][1]) or batch < 1:
        raise UsageError(
            f"there is nothing to {where}, or too much of it",
            where=where,
            got=", ".join(f"{len(one)} {name}" for name, one in stated) or "no inputs",
            expected="a list of images, of texts or of pairs, with one input at least",
        )
    name, inputs = stated[0]
    return [tuple(one) if name == "pairs" else (one, None) if name == "images" else (None, one) for one in inputs]


def check_query(query: object) -> None:
    """Refuse what is no text, or empty.

    Raises:
        UsageError: It is.
    """
    if not isinstance(query, str) or not query:
        raise UsageError("a query is a text", where="query", got=repr(query)[:80], expected="one letter at least")


def late_interaction(query: NDArray[np.float32], pages: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """For each of a query's vectors the largest product with one of a page's, and their sum (ColBERT, 2004.12832).

    Args:
        query: float32 [n, D].
        pages: float32 [m, D] of each of N pages.

    Returns:
        float32 [N].
    """
    return np.array([(query @ page.T).max(1).sum() for page in pages], np.float32)


def chance(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logistic function of scores, in float64: float32 overflows at 89."""
    return np.asarray(1 / (1 + np.exp(-scores.astype(np.float64))), np.float32)


def embedding_of(bundle: Bundle) -> Embedding:
    """How a bundle makes vectors or scores."""
    assert bundle.manifest.embedding is not None  # ``check_task``
    return bundle.manifest.embedding
