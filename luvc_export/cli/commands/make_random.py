"""``luvc-export make-random``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options
from luvc_export.cli.files import check_folder
from luvc_export.core.options import choice


def make_random(
    config: Annotated[
        str,
        typer.Argument(
            help="qwen2.5-vl-3b, qwen2.5-vl-7b, internvl3-1b, internvl3-2b, smolvlm-256m, cosmos-reason2-2b, "
            "ministral3-3b, llava-next-7b, paligemma-3b, fastvlm-0.5b, gemma4-e2b, lfm2-vl-450m, qwen3.5-0.8b, "
            "paddleocr-vl-0.9b, or a config.json."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the checkpoint.")],
    layers: Annotated[int | None, typer.Option("--layers", help="LLM layers; default: as published.")] = None,
    encoder_blocks: Annotated[
        int | None, typer.Option("--encoder-blocks", help="Vision encoder blocks; default: as published.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, fp16 or bf16: how weights are stored.")] = "bf16",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the weights.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Write a checkpoint of random weights with a real model's layer shapes, to time without a download.

    [dim]luvc-export make-random qwen2.5-vl-3b -o random-3b --layers 12 --encoder-blocks 8 --dtype fp32[/dim]
    """
    from luvc_export.export.synthetic import checkpoint, presets

    choice("--dtype", dtype, ("fp32", "fp16", "bf16"))
    check_folder(output, "--output")
    preset = presets.resized(presets.find(config), layers, encoder_blocks)
    with options.progress(quiet=as_json) as tell:
        count = checkpoint.write(preset, output, dtype, seed, tell)
    if as_json:
        print(json.dumps({"checkpoint": str(output), "source": preset.source, "parameters": count, "dtype": dtype}))
        return
    print(f"wrote {output}: {count / 1e6:,.0f} M random parameters in {dtype}, layer shapes of {preset.source}")
    print(f"export it: luvc-export export {output} -o BUNDLE --plan none --plan thirds")
