"""Memory of an encoder's attention, by visual tokens: `python benchmarks/measure/attention_memory.py FOLDER`.

FOLDER gets a checkpoint of random weights with Qwen3-VL-2B's shapes (2 of 24 encoder blocks, each of which sees every
patch; 2 LLM layers) and a bundle for `embed` of each size. Each line is a process of its own on one thread, in fp32,
that loads the encoder, encodes a page and says what its peak is above what it had before. Beside it what the products
of every patch with every other one would take in all heads, and how much memory of the process may be at most
(`--limit`): one that needs more ends with an error.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Rows and columns of visual tokens of 32 x 32 pixels: 1,024, 2,304, 4,096 and 6,768.
GRIDS = ((32, 32), (48, 48), (64, 64), (72, 94))
UNIT, PATCHES, HEADS = 32, 4, 16


def bundle(folder: Path, grid: tuple[int, int]) -> Path:
    """The bundle of a size, exported where it is not there."""
    from luvc_export.pipeline import export_bundle

    checkpoint, path = folder / "checkpoint", folder / f"{grid[0]}x{grid[1]}"
    if not checkpoint.is_dir():
        model = ["make-random", "cosmos-reason2-2b", "-o", str(checkpoint), "--layers", "2", "--encoder-blocks", "2"]
        subprocess.run([sys.executable, "-m", "luvc_export", *model, "--dtype", "fp16"], check=True)
    if not path.is_dir():
        size = (UNIT * grid[0], UNIT * grid[1])
        export_bundle(str(checkpoint), path, "none", image_size=size, task="embed", weights="reference")
    return path


def encoded(path: str, backend: str) -> tuple[int, int]:
    """Bytes of the process before a page, and what its encoding took more at the peak."""
    import numpy as np

    from luvc_export import load_bundle
    from luvc_export.runtime import memory
    from luvc_export.runtime.prompt.request import open_media
    from luvc_export.runtime.prompt.vector_chat import input_chat

    session = load_bundle(path, backend=backend, threads=1, arithmetic="auto" if backend == "cpu" else "fp32")
    manifest = session.bundle.manifest
    high, wide = manifest.image.size
    page = np.random.default_rng(0).integers(0, 256, (high, wide, 3), np.uint8)
    assert manifest.embedding is not None
    loaded, request = session.fit(open_media(input_chat(manifest.embedding, [page], None, ""), manifest))
    loaded.backend.load()
    before = memory.peak_bytes() or 0
    loaded.graphs.encode_images(*request.shown())
    return before, (memory.peak_bytes() or 0) - before


def main() -> None:
    """Read the command line and print a line of each size and back-end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=float, default=12, help="GiB that a process may take, at most")
    parser.add_argument("--backends", nargs="+", default=["openvino", "cpu"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        resource.setrlimit(resource.RLIMIT_AS, (int(args.limit * 2**30),) * 2)
        print(json.dumps(encoded(*args.one)))
        return
    for grid in GRIDS:
        tokens, path = grid[0] * grid[1], bundle(args.folder, grid)
        square = HEADS * (PATCHES * tokens) ** 2 * 4 / 2**30
        for backend in args.backends:
            command: list[Any] = [sys.executable, __file__, args.folder, "--limit", args.limit, "--one", path, backend]
            done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
            figure = f"ended, for it takes more than {args.limit:g} GiB"
            if done.returncode == 0:
                before, more = json.loads(done.stdout.splitlines()[-1])
                figure = f"{more / 2**30:.2f} GiB more than {before / 2**30:.2f}"
            elif not any(word in done.stderr for word in ("memory", "alloc")):
                sys.exit(done.stderr)
            figure += f"; every product {square:.1f} GiB"
            print(f"{tokens:,} visual tokens, {backend}: {figure}", flush=True)


if __name__ == "__main__":
    main()
