"""``luvc-export embed``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luvc_export.cli import options
from luvc_export.cli.files import check_writable
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option
from luvc_export.errors import UsageError
from luvc_export.runtime.engine.vector_form import VectorOptions, check_options, values_and_scales
from luvc_export.runtime.session_options import SessionOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(VectorOptions):
    """What is embedded, by what, and where the vectors go."""

    image: tuple[Path, ...] = option((), "Picture; repeat for several.")
    text: tuple[str, ...] = option((), "Text; repeat for several. As many as pictures: pairs.")
    query: str | None = option(None, "Score each input for this query, in its place.", metavar="TEXT")
    output: Path | None = option(
        None,
        "Write vectors, [N, D] (int8: records of scale and values), or scores [N]; of many vectors an input, their "
        "counts too (npz).",
        metavar="FILE.npy",
    )


@grouped
def embed(
    *,
    bundle: Path = option(..., "Bundle folder, of a task that decodes nothing.", argument=True),
    wanted: EmbedOptions,
    opening: SessionOptions,
    as_json: options.Json = False,
) -> None:
    """Write a vector for each picture, text or pair of both (embed-many: each token); with --query, a score for each.

    [dim]luvc-export embed pages-bundle --image page1.png --image page2.png --output pages.npy[/dim]

    [dim]luvc-export embed reranker --query "invoices above 100 euros" --image page1.png --image page2.png --json[/dim]
    """
    import numpy as np

    from luvc_export.core.files.safe_files import whole
    from luvc_export.pipeline import load_bundle

    check_writable(wanted.output, "--output")
    if wanted.output is None and not as_json:
        raise UsageError(
            "vectors and scores go into a file, or are printed as JSON", where="embed", fix="--output FILE, or --json"
        )
    images, texts = list(wanted.image), list(wanted.text)
    if images and texts and len(images) != len(texts):
        got, expected = f"{len(images)} pictures, {len(texts)} texts", "as many of both, or one kind"
        raise UsageError("pairs are a picture and a text each", where="--image, --text", got=got, expected=expected)
    with options.progress(as_json) as tell:
        session = load_bundle(bundle, options=opening, progress=tell)
    if wanted.query is not None and (wanted.dimensions, wanted.embed_dtype, wanted.pool) != (None, "float32", 1):
        where = "--dimensions, --embed-dtype, --pool"
        raise UsageError("scores are of whole vectors in float32", where=where, fix="leave them out, or --query")
    pairs = list(zip(images, texts, strict=True)) if images and texts else None
    alone: dict[str, Any] = {"images": images or None, "texts": texts or None} if pairs is None else {"pairs": pairs}
    vectors: NDArray[Any]
    counts: list[int] | None = None
    asked = {each.name: getattr(wanted, each.name) for each in fields(VectorOptions)}
    if wanted.query is not None:
        vectors = session.score(wanted.query, **alone, prompt=wanted.prompt, instruction=wanted.instruction)
        name = "scores"
    elif session.bundle.manifest.does.pooling == "every":
        check_options(session.bundle, wanted)
        rows, name = session.embed_many(**alone, embed_dtype=wanted.embed_dtype, pool=wanted.pool), "vectors"
        vectors, counts = np.concatenate(rows), [len(one) for one in rows]
    else:
        check_options(session.bundle, wanted)
        asked.pop("pool")
        vectors, name = session.embed(**alone, **asked), "vectors"
    if wanted.output is not None:
        with whole(wanted.output) as file:
            np.save(file, vectors) if counts is None else np.savez(file, vectors=vectors, counts=counts)
    values, scales = values_and_scales(vectors)
    facts = {"shape": list(values.shape), "plan": session.plan_name, "backend": session.backend.name}
    facts |= {} if counts is None else {"counts": counts}
    shown = {"output": str(wanted.output)} if wanted.output is not None else {name: values.tolist()}
    if scales is not None and wanted.output is None:
        shown["scales"] = scales.tolist()
    of = f" of {values.shape[1]} {'bytes' if wanted.embed_dtype == 'binary' else 'numbers'}" if values.ndim > 1 else ""
    write(as_json, facts | shown, f"wrote {wanted.output}: {len(vectors)} {name}{of}, plan {facts['plan']}")
