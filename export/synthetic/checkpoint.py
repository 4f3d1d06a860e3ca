"""Write a checkpoint of random weights, shard by shard, so that memory does not grow with the model."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from luvc_export.core.element_types import BY_PRECISION
from luvc_export.core.files import safe_files
from luvc_export.core.files.folders import list_names, make_folder, writing_to
from luvc_export.core.files.safe_files import create, write_new
from luvc_export.errors import MachineError, Progress, UsageError
from luvc_export.export import families
from luvc_export.export.synthetic.presets import Preset

#: Weights are normal with this deviation, as transformers initialises these models (``initializer_range``).
DEVIATION = 0.02
SHARD_BYTES = 2 * 2**30
_CHUNK = 2**22
#: Limits that clip nothing, a number of every type.
_WIDE = 32768.0


def write(preset: Preset, output: Path, dtype: str = "bf16", seed: int = 0, progress: Progress | None = None) -> int:
    """Write ``preset`` to the new folder ``output``; it appears whole or not at all.

    Norms are ones, vectors zeros, matrices normal. Names are those of transformers' own state dict.

    Args:
        preset: What to write.
        output: Folder that does not exist, or is empty.
        dtype: fp32, fp16 or bf16: how weights are stored.
        seed: Of the weights.
        progress: Told (stage, fraction done).

    Returns:
        Number of parameters.

    Raises:
        UsageError: The folder holds something, or the config is not that of a family.
        MachineError: The disk is too small.
    """
    safe_files.recover(output)
    _check_free(output)
    shapes = shapes_of(preset)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    make_folder(output.parent)
    free, needed = shutil.disk_usage(output.parent).free, count * _itemsize(dtype)
    if needed > free:
        raise MachineError(
            "the disk is too small",
            where=str(output.parent),
            got=f"{free / 2**30:.1f} GiB free",
            expected=f"{needed / 2**30:.1f} GiB",
            fix="fewer --layers, or another -o",
        )
    with writing_to(output), safe_files.scratch_folder(output) as scratch:
        config = preset.config | {"torch_dtype": BY_PRECISION[dtype].name}
        _json(scratch / "config.json", config)
        if preset.processor:
            _json(scratch / "preprocessor_config.json", preset.processor)
        write_tokenizer(preset, scratch)
        _shards(scratch, shapes, dtype, seed, progress or (lambda stage, done: None))
        _check_free(output)
        safe_files.put_in_place(scratch, output)
    return count


def shapes_of(preset: Preset) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, tied ones once, and of numbers that checkpoints hold beside them.

    Raises:
        CheckpointError: No family takes this config.
    """
    from transformers import AutoConfig

    family = families.find(str(preset.config.get("model_type")), preset.source)
    fields = {name: value for name, value in preset.config.items() if name != "model_type"}
    config = AutoConfig.for_model(preset.config["model_type"], **fields)
    with torch.device("meta"):
        model = family.build(config)
    model.tie_weights()  # type: ignore[operator]
    kept = {name for name, value in model.state_dict().items() if value.is_floating_point()}
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in kept)
    return {name: tuple(tensor.shape) for name, tensor in (*model.named_parameters(), *buffers)}


def _check_free(output: Path) -> None:
    """Nothing is replaced but an empty folder; a link is not followed."""
    if output.is_symlink() or (output.exists() and (not output.is_dir() or list_names(output))):
        raise UsageError("the output folder exists", where=str(output), fix="choose another -o")


def _shards(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str, seed: int, progress: Progress) -> None:
    total = sum(int(np.prod(shape)) for shape in shapes.values()) * _itemsize(dtype)
    groups, size = [[]], 0  # type: tuple[list[list[str]], int]
    for name, shape in shapes.items():
        bytes_ = int(np.prod(shape)) * _itemsize(dtype)
        if groups[-1] and size + bytes_ > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += bytes_
    place, done = {}, 0
    for index, names in enumerate(groups):
        file = f"model-{index + 1:05}-of-{len(groups):05}.safetensors" if len(groups) > 1 else "model.safetensors"
        with create(folder / file) as out:
            out.write(_header({name: shapes[name] for name in names}, dtype))
            for name in names:
                place[name] = file
                for chunk in values(name, shapes[name], dtype, seed):
                    out.write(chunk.tobytes())
                    done += chunk.nbytes
                    progress("writing weights", done / total)
    if len(groups) > 1:
        _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": place})


def values(name: str, shape: tuple[int, ...], dtype: str, seed: int) -> Iterator[NDArray[Any]]:
    """Values of one tensor in pieces, as they are stored (bf16 as its bits); the same for a name and a seed."""
    random = np.random.default_rng([seed, *name.encode()])
    left = int(np.prod(shape))
    while left:
        count = min(left, _CHUNK)
        if len(shape) <= 1:
            ends = {"bias": 0.0, "running_mean": 0.0, "_min": -_WIDE, "_max": _WIDE}
            part = np.full(count, next((value for end, value in ends.items() if name.endswith(end)), 1.0), np.float32)
        else:
            part = random.standard_normal(count, np.float32) * np.float32(DEVIATION)
        yield _stored(part, dtype)
        left -= count


def _stored(part: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "bf16":
        bits = part.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return part.astype(np.float16) if dtype == "fp16" else part


def _header(shapes: dict[str, tuple[int, ...]], dtype: str) -> bytes:
    """A safetensors header: its length in 8 bytes, then JSON padded to 8."""
    entries, at = {}, 0
    for name, shape in shapes.items():
        end = at + int(np.prod(shape)) * _itemsize(dtype)
        entries[name] = {"dtype": BY_PRECISION[dtype].safetensors, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _itemsize(dtype: str) -> int:
    return 4 if dtype == "fp32" else 2


def _json(path: Path, data: Any) -> None:
    write_new(path, (json.dumps(data, indent=1) + "\n").encode())


_TURN = "<|im_start|>"


def write_tokenizer(preset: Preset, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json (with the chat template) and generation_config.json."""
    end = preset.end
    write_new(folder / "tokenizer.json", make_tokenizer(preset).to_str(pretty=True).encode())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end or None,
        "pad_token": end or None,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(preset) if preset.image else None,
    }
    _json(folder / "tokenizer_config.json", {name: value for name, value in settings.items() if value is not None})
    if preset.image:
        write_new(folder / "chat_template.jinja", chat_template(preset).encode())
    ends = [number for number, text in preset.tokens.items() if text == end]
    _json(folder / "generation_config.json", {"eos_token_id": ends[0], "do_sample": False} if ends else {})


def make_tokenizer(preset: Preset) -> Tokenizer:
    """Bytes at the lowest free ids, special tokens at theirs, fillers between, up to the last special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    free = iter(number for number in range(len(alphabet) + len(preset.tokens)) if number not in preset.tokens)
    vocabulary = {letter: next(free) for letter in alphabet} | {text: n for n, text in preset.tokens.items()}
    taken = set(vocabulary.values())
    vocabulary |= {f"<|unused{n}|>": n for n in range(max(preset.tokens)) if n not in taken}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in preset.tokens.values()])
    return tokenizer


def chat_template(preset: Preset) -> str:
    """A chat template in the form these models share."""
    turn = _TURN if _TURN in preset.tokens.values() else ""
    return (
        "{% for m in messages %}{{ '" + turn + "' + m['role'] + '\n' }}"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}{{ '"
        + preset.image
        + "' }}"
        + ("{% elif c['type'] == 'video' %}{{ '" + preset.video + "' }}" if preset.video else "")
        + "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
        "{{ '" + preset.end + "\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + turn + "assistant\n' }}{% endif %}"
    ).replace("\n", "\\n")
