"""A LoRA adapter merged into its checkpoint before export, by peft itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from luvc_export.bundle.adapters.peft_config import CONFIG, read_object
from luvc_export.core.files.folders import copy_file, list_names
from luvc_export.core.files.safe_files import temporary_folder
from luvc_export.errors import CheckpointError, LuvcError, MachineError, first_few
from luvc_export.export.checkpoint import Checkpoint, open_checkpoint

#: Endings of files that lie beside weights.
_COPIED = (".json", ".jinja", ".txt", ".model")
#: Tensors that an error names.
_NAMED = 8


@contextmanager
def merged(checkpoint: Checkpoint, adapter: str) -> Iterator[Checkpoint]:
    """The checkpoint with ``adapter`` (a local folder) merged in, on disk as long as the block lasts.

    The whole model is loaded, in the dtype it is stored in, which is also the dtype of the sum.

    Raises:
        CheckpointError: The folder holds no adapter, or one that does not fit the checkpoint.
        MachineError: peft is not installed.
    """
    folder = Path(adapter)
    if checkpoint.method is not None:
        raise CheckpointError(
            "an adapter cannot be merged into quantised weights",
            where=adapter,
            got=f"a checkpoint of quant_method {checkpoint.method}",
            fix="merge it into the 16-bit checkpoint that this one was made from",
        )
    read_object(folder)
    with temporary_folder("luvc-lora") as target:
        for path in (checkpoint.folder / name for name in list_names(checkpoint.folder)):
            if path.is_file() and path.suffix in _COPIED and ".safetensors." not in path.name:
                copy_file(path, target / path.name, links=True)
        _merge(checkpoint, folder, target)
        opened = open_checkpoint(str(target))
        yield replace(opened, name=f"{checkpoint.name} + {adapter}", revision=checkpoint.revision)


def _merge(checkpoint: Checkpoint, adapter: Path, target: Path) -> None:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MachineError(
            "merging an adapter needs peft", got=str(error), fix="pip install 'luvc-export[lora]'"
        ) from error
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(checkpoint.folder, dtype="auto", local_files_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it will rename
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
            warnings.filterwarnings("ignore", "Model (with|has) `tie_word_embeddings=True`|Input and output embeddings")
            with _loads() as results:
                adapted = PeftModel.from_pretrained(model, str(adapter))
            _check_whole(checkpoint, adapter, results)
            _untie(adapted)
            merged_model = adapted.merge_and_unload(safe_merge=True)
    except (LuvcError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # peft and torch raise almost anything on an adapter of another model
        raise CheckpointError(
            "the adapter does not fit the checkpoint",
            where=str(adapter),
            got=f"{type(error).__name__}: {str(error)[:300]}",
            expected=_expected(checkpoint, adapter),
        ) from error
    try:
        merged_model.save_pretrained(target)
    except (OSError, SafetensorError) as error:  # which it makes of what the system refuses
        raise MachineError(
            "the merged weights cannot be written",
            where=str(target),
            got=str(error)[:300],
            fix="make room, or set TMPDIR",
        ) from error


def _untie(adapted: Any) -> None:
    """Give a tied matrix with an adapter beside it numbers of its own: the merge would write into both of the pair."""
    from torch import nn

    owners: dict[int, str] = {}
    for name, parameter in [*adapted.named_parameters(remove_duplicate=False)]:
        owner = owners.setdefault(id(parameter), name)
        if owner != name and any(".base_layer." in one for one in (owner, name)):
            module, _, last = name.rpartition(".")
            setattr(adapted.get_submodule(module), last, nn.Parameter(parameter.detach().clone(), requires_grad=False))


@contextmanager
def _loads() -> Iterator[list[Any]]:
    """What peft says of the adapters it loads in this block: names of missing and of unexpected tensors."""
    from peft import PeftModel

    plain, results = PeftModel.load_adapter, list[Any]()

    def load(self: Any, *arguments: Any, **named: Any) -> Any:
        results.append(plain(self, *arguments, **named))
        return results[-1]

    PeftModel.load_adapter = load
    try:
        yield results
    finally:
        PeftModel.load_adapter = plain


def _check_whole(checkpoint: Checkpoint, adapter: Path, results: list[Any]) -> None:
    """Check that every tensor of the adapter found its weight, and every place of the adapter its tensor.

    Raises:
        CheckpointError: Some did not.
    """
    homeless = sorted(name for result in results for name in result.unexpected_keys)
    empty = sorted(name for result in results for name in result.missing_keys)
    if not results or homeless or empty:
        moved = {_place(name): name.replace(".default.weight", ".weight") for name in empty}
        alone = bool(homeless) and all(_place(name) in moved for name in homeless)
        named = homeless or empty or ["all"]
        what = "tensors of the adapter have no weight in the model" if homeless else "weights get no tensor of it"
        what = "tensors of the adapter are named as in the text model alone" if alone else what
        raise CheckpointError(
            "the adapter does not fit the checkpoint",
            where=str(adapter),
            got=f"{len(named)} {what}: {first_few(named, _NAMED)}",
            expected=f"names of the whole model: {moved[_place(named[0])]}"
            if alone
            else _expected(checkpoint, adapter),
            fix="train it on the whole model (AutoModelForImageTextToText), or rename its tensors" if alone else None,
        )


def _place(name: str) -> str:
    """A tensor's name from its number of a layer on, without what peft calls the adapter."""
    return name.partition(".layers.")[2].replace(".default.weight", ".weight") or name


def _expected(checkpoint: Checkpoint, adapter: Path) -> str:
    base = _base(adapter)
    if Path(base) == Path(checkpoint.name):  # so it says, and what it holds is of another
        return f"an adapter with the modules and shapes of {base}, which its {CONFIG} names as its model"
    return f"an adapter of {checkpoint.name}; this one was made for {base}"


def _base(adapter: Path) -> str:
    return str(read_object(adapter).get("base_model_name_or_path"))
