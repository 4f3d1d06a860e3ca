"""Checkpoints in the forms that repositories were published in, made of the tiny models.

``old`` is what transformers 4 wrote and the hub still holds: Qwen2-VL and 2.5-VL with the LLM's fields at the top,
``torch_dtype``, ``rope_theta`` with ``rope_scaling``, ``image_token_index``, no ``layer_types``, names of tensors
before they moved below ``model.``, pictures in ``preprocessor_config.json``. ``new`` is what transformers 5 writes:
``dtype``, ``rope_parameters``, pictures nested in ``processor_config.json``. Each comes with the files a repository
holds beside them.

The forms are those of the repositories named in ``SOURCES``; sizes are the tiny models'.

``python tests/export/families/family_published.py [FAMILY ...]`` puts each old one into a hub cache and tries it from
there, offline: export by reference, parity with transformers and with torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import family_chat
from family_checkpoints import Json, find, names
from family_harness import Case, case

#: Whose form each family's old config has; those published since transformers 5 have no old form.
SOURCES = {name: find(name).repository for name in names() if find(name).repository}


def old_config(config: Json) -> Json:
    """``config`` as transformers 4 wrote it for the family."""
    written, old = find(config["model_type"]), json.loads(json.dumps(config))
    written.old_rope(old)
    for part in (old["text_config"], old["vision_config"]):
        part.pop("dtype", None)
        part.pop("rope_parameters", None)
    for change in written.old:
        change(old)
    old["torch_dtype"] = "bfloat16"
    old.pop("dtype", None)
    return old | {"_name_or_path": "somewhere", "transformers_version": "4.45.0", "use_cache": True}


#: Where a chat template may stand, and the file without it.
PLACES: dict[str, Callable[[Path, str], None]] = {
    "jinja": lambda folder, text: _write(folder / "chat_template.jinja", text),
    "json": lambda folder, text: _write(folder / "chat_template.json", json.dumps({"chat_template": text})),
    "tokenizer": lambda folder, text: _change(folder / "tokenizer_config.json", {"chat_template": text}),
    "named": lambda folder, text: _change(
        folder / "tokenizer_config.json",
        {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}]},
    ),
}


def save(tiny: Case, folder: Path, form: str, place: str) -> Path:
    """The checkpoint in one of the two forms, with the chat template in one of its places."""
    family_chat.save(tiny, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtype = {"dtype": "bfloat16"}
    _write(folder / "config.json", json.dumps(old_config(config) if form == "old" else config | dtype))
    (folder / "model.safetensors").unlink()
    tiny.model.save_pretrained(folder / "weights", max_shard_size="100KB")
    for path in (folder / "weights").glob("model*"):
        path.rename(folder / path.name)
    for path in (folder / "weights").iterdir():
        path.unlink()
    (folder / "weights").rmdir()
    _pictures(tiny, folder, form)
    _template(tiny, folder, place)
    _extras(folder)
    return folder


def _pictures(tiny: Case, folder: Path, form: str) -> None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    family_chat.save_image_processor(tiny, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    settings["image_processor_type"] = settings["image_processor_type"].removesuffix("Pil")
    if form == "old":
        settings |= {"processor_class": "AProcessor", "do_convert_rgb": True}
        _write(folder / "preprocessor_config.json", json.dumps(settings))
    else:
        (folder / "preprocessor_config.json").unlink()
        _write(
            folder / "processor_config.json", json.dumps({"image_processor": settings, "processor_class": "AProcessor"})
        )


def _template(tiny: Case, folder: Path, place: str) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.json").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    _write(folder / "tokenizer_config.json", json.dumps(settings))
    PLACES[place](folder, family_chat.template(str(tiny)))


def _extras(folder: Path) -> None:
    """Files of a repository that say nothing new."""
    for name, text in {
        ".gitattributes": "*.safetensors filter=lfs",
        "README.md": "---\nlicense: apache-2.0\n---\n",
        "LICENSE": "text",
        "added_tokens.json": "{}",
        "special_tokens_map.json": "{}",
        "merges.txt": "#version: 0.2\n",
        "vocab.json": "{}",
        "video_preprocessor_config.json": "{}",
        "generation_config.json": json.dumps({"eos_token_id": [3, 2], "do_sample": True, "temperature": 0.7}),
        "training_args.bin": "no weights",
        "onnx/model.onnx": "not ours",
    }.items():
        _write(folder / name, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _change(path: Path, fields: Json) -> None:
    _write(path, json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields))


def hub_cache(folder: Path, cache: Path, name: str) -> None:
    """``folder`` as the hub's client keeps repository ``name`` in ``cache``: blobs, and a snapshot of links to them."""
    commit, repository = "0123456789abcdef0123456789abcdef01234567", cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    blobs.mkdir()
    for index, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / f"{index:040x}"
        path.rename(blob)
        up = "../" * (len(link.relative_to(snapshot).parts) + 1)
        link.symlink_to(f"{up}blobs/{blob.name}")


def tried(name: str, folder: Path) -> dict[str, str]:
    """Verdicts of a trial of ``owner/NAME``, whose old form lies in a hub cache below ``folder``."""
    hub_cache(save(case(name), folder / "made", "old", "json"), folder / "hub", f"owner/{name}")
    offline = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    steps = [word for step in ("export", "parity-none", "parity-even") for word in ("--only", step)]
    command = [sys.executable, "-m", "luvc_export", "trial", f"owner/{name}", "--out", str(folder / "out"), "--json"]
    done = subprocess.run([*command, *steps], env={**os.environ, **offline}, capture_output=True, text=True)
    if not done.stdout:
        return {"error": done.stderr.strip().splitlines()[-1]}
    lines = json.loads(done.stdout)["verdicts"]
    return {line["claim"]: f"{line['verdict']} ({line['figure']})" for line in lines if line["verdict"] != "not tried"}


if __name__ == "__main__":
    for each in sys.argv[1:] or SOURCES:
        with tempfile.TemporaryDirectory() as scratch:
            print(f"{each}: {tried(each, Path(scratch))}", flush=True)
