"""A LoRA adapter merged into its checkpoint before export, by peft itself."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from luvc_export.errors import CheckpointError, LuvcError, MachineError
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint

_CONFIG = "adapter_config.json"


@contextmanager
def merged(checkpoint: Checkpoint, adapter: str) -> Iterator[Checkpoint]:
    """The checkpoint with ``adapter`` (a local folder) merged in, on disk as long as the block lasts.

    The whole model is loaded, in the dtype it is stored in, which is also the dtype of the sum.

    Raises:
        CheckpointError: The folder holds no adapter, or one that does not fit the checkpoint.
        MachineError: peft is not installed.
    """
    folder = Path(adapter)
    if not (folder / _CONFIG).is_file():
        raise CheckpointError(
            "this folder is not a LoRA adapter",
            where=str(folder),
            got=f"no {_CONFIG}",
            expected="what peft's save_pretrained writes",
            fix="hf download OWNER/ADAPTER --local-dir FOLDER gets one from the hub",
        )
    with tempfile.TemporaryDirectory(prefix="luvc-lora-") as scratch:
        target = Path(scratch)
        for path in checkpoint.folder.iterdir():
            if path.is_file() and path.suffix in (".json", ".jinja") and ".safetensors." not in path.name:
                shutil.copyfile(path, target / path.name)
        _merge(checkpoint, folder, target)
        made = open_checkpoint(str(target))
        yield replace(made, name=f"{checkpoint.name} + {adapter}", revision=checkpoint.revision)


def _merge(checkpoint: Checkpoint, adapter: Path, target: Path) -> None:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MachineError(
            "merging an adapter needs peft", got=str(error), fix="pip install 'luvc-export[lora]'"
        ) from error
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(checkpoint.folder, dtype="auto", local_files_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it will rename
            found = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    except (LuvcError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # peft and torch raise almost anything on an adapter of another model
        base = json.loads((adapter / _CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
        raise CheckpointError(
            "the adapter does not fit the checkpoint",
            where=str(adapter),
            got=f"{type(error).__name__}: {str(error)[:300]}",
            expected=f"an adapter of {checkpoint.name}; this one was made for {base}",
        ) from error
    found.save_pretrained(target)
