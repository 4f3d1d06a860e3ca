"""``luvc-export embed``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luvc_export.cli import options
from luvc_export.cli.files import check_writable
from luvc_export.cli.grouped import grouped
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option
from luvc_export.errors import UsageError
from luvc_export.runtime.session_options import SessionOptions


@dataclass(frozen=True)
class EmbedOptions:
    """What is embedded, by what, and where the vectors go."""

    image: tuple[Path, ...] = option((), "Picture; repeat for several.")
    text: tuple[str, ...] = option((), "Text; repeat for several. As many as pictures: pairs.")
    prompt: str | None = option(None, "One of the bundle's instructions by name.", "--prompt-name", metavar="NAME")
    instruction: str | None = option(None, "An instruction in its own words.", metavar="TEXT")
    dimensions: int | None = option(None, "Numbers of a vector, where the bundle names sizes (Matryoshka).")
    output: Path | None = option(None, "Write the vectors, float32 [N, D].", metavar="FILE.npy")


@grouped
def embed(
    *,
    bundle: Path = option(..., "Bundle folder, of the task embed.", argument=True),
    wanted: EmbedOptions,
    opening: SessionOptions,
    as_json: options.Json = False,
) -> None:
    """Write a vector for each picture, text or pair of both.

    [dim]luvc-export embed pages-bundle --image page1.png --image page2.png --output pages.npy[/dim]
    """
    import numpy as np

    from luvc_export.core.files.safe_files import whole
    from luvc_export.pipeline import load_bundle

    check_writable(wanted.output, "--output")
    if wanted.output is None and not as_json:
        raise UsageError(
            "vectors go into a file, or are printed as JSON", where="embed", fix="--output FILE, or --json"
        )
    images, texts = list(wanted.image), list(wanted.text)
    if images and texts and len(images) != len(texts):
        got, expected = f"{len(images)} pictures, {len(texts)} texts", "as many of both, or one kind"
        raise UsageError("pairs are a picture and a text each", where="--image, --text", got=got, expected=expected)
    with options.progress(as_json) as tell:
        session = load_bundle(bundle, options=opening, progress=tell)
    pairs = images and texts and list(zip(images, texts, strict=True))
    asked: dict[str, Any] = {"pairs": pairs} if pairs else {"images": images or None, "texts": texts or None}
    vectors = session.embed(**asked, prompt=wanted.prompt, instruction=wanted.instruction, dimensions=wanted.dimensions)
    if wanted.output is not None:
        with whole(wanted.output) as file:
            np.save(file, vectors)
    facts = {"shape": list(vectors.shape), "plan": session.plan_name, "backend": session.backend.name}
    shown = {"output": str(wanted.output)} if wanted.output is not None else {"vectors": vectors.tolist()}
    count, size = vectors.shape
    write(as_json, facts | shown, f"wrote {wanted.output}: {count} vectors of {size} numbers, plan {facts['plan']}")
