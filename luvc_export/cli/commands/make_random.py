"""``luvc-export make-random``."""

from __future__ import annotations

from pathlib import Path

from luvc_export.cli import options
from luvc_export.cli.files import check_folder
from luvc_export.cli.options import grouped
from luvc_export.cli.tables.console import write
from luvc_export.core.options import option

_PRESETS = (
    "qwen2.5-vl-3b, qwen2.5-vl-7b, internvl3-1b, internvl3-2b, smolvlm-256m, cosmos-reason2-2b, ministral3-3b, "
    "llava-next-7b, paligemma-3b, fastvlm-0.5b, gemma4-e2b, lfm2-vl-450m, qwen3.5-0.8b, paddleocr-vl-0.9b"
)
_DTYPES = ("fp32", "fp16", "bf16")


@grouped
def make_random(
    *,
    config: str = option(..., f"{_PRESETS}, or a config.json.", argument=True),
    output: Path = option(..., "Folder of the checkpoint.", "-o", "--output"),
    layers: int | None = option(None, "LLM layers; default: as published."),
    encoder_blocks: int | None = option(None, "Vision encoder blocks; default: as published."),
    dtype: str = option("bf16", "fp32, fp16 or bf16: how weights are stored.", choices=_DTYPES),
    seed: int = option(0, "Seed of the weights.", least=0),
    as_json: options.Json = False,
) -> None:
    """Write a checkpoint of random weights with a real model's layer shapes, to time without a download.

    [dim]luvc-export make-random qwen2.5-vl-3b -o random-3b --layers 12 --encoder-blocks 8 --dtype fp32[/dim]
    """
    from luvc_export.export.synthetic import checkpoint, presets

    check_folder(output, "--output")
    preset = presets.resized(presets.find(config), layers, encoder_blocks)
    with options.progress(as_json) as tell:
        count = checkpoint.write(preset, output, dtype, seed, tell)
    write(
        as_json,
        {"checkpoint": str(output), "source": preset.source, "parameters": count, "dtype": dtype},
        f"wrote {output}: {count / 1e6:,.0f} M random parameters in {dtype}, layer shapes of {preset.source}",
        f"export it: luvc-export export {output} -o BUNDLE --plan none --plan thirds",
    )
