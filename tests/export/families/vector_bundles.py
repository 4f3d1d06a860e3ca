"""Bundles of tiny models that decode nothing, and what transformers makes of the same inputs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import family_chat
import numpy as np
import torch
from family_harness import Case
from family_questions import small
from flat_plans import flat_request
from made_once import made_once
from numpy.typing import NDArray

from luvc_export.core.named_plans import PICTURES
from luvc_export.core.plan import Plan
from luvc_export.core.planning import solve
from luvc_export.pipeline import export_bundle

#: By family, the instruction of each input: of the folder, or of the model's card.
INSTRUCTIONS = {"qwen3_vl": "Represent the user's input."} | dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), "Find the page.")
#: Of the others, whose folders are sentence-transformers'.
SIZES, PROMPTS = [16, 32], {"query": "Find the page.", "document": ""}
#: The one of the task ``rerank``, of the first family, and its tokens for no and yes.
RERANKER, LABELS = "reranker", (40, 77)
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."


def tiny_of(name: str) -> Case:
    """Layers that show a prune and a drop; of the second family one, of which a vector takes keys and values alone."""
    return small("qwen3_vl" if name == RERANKER else name, 1 if name == "qwen2_vl" else 2)


def named_plans(tiny: Case) -> dict[str, Plan]:
    """Every recipe for pictures, by name, of a tiny model."""
    shapes = tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config)
    return {name: solve(flat_request(schedule=name), tiny.plan.grid, *shapes) for name in PICTURES}


def sentence_transformers(folder: Path, hidden: int) -> None:
    """Write what sentence-transformers does beside a model, in its older form."""
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    settings = {"prompts": PROMPTS, "default_prompt_name": "query"}
    template = {"processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}
    for name, data in {
        "modules.json": modules,
        "1_Pooling/config.json": pooling | {"include_prompt": True},
        "config_sentence_transformers.json": settings,
        "sentence_bert_config.json": template,
    }.items():
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"matryoshka_dimensions": SIZES[::-1]}), encoding="utf-8")


def labelled(folder: Path) -> None:
    """Write what sentence-transformers does beside a reranker."""
    kinds = "base.modules.transformer.Transformer", "cross_encoder.modules.logit_score.LogitScore"
    paths = "", "1_LogitScore"
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / paths[1]).mkdir()
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    labels = {"true_token_id": LABELS[1], "false_token_id": LABELS[0]}
    (folder / paths[1] / "config.json").write_text(json.dumps(labels), encoding="utf-8")


def kept(cache: Path, name: str) -> Path:
    """``checkpoint`` and ``bundle`` of a family, which nobody changes."""
    return made_once(cache, Path(__file__), partial(_export, name))


def _export(name: str, folder: Path) -> None:
    tiny = tiny_of(name)
    folder.mkdir()
    checkpoint = family_chat.save(tiny, folder / "checkpoint")
    plans, task = {"none": tiny.plan}, "embed"
    if name == "qwen3_vl":
        plans["lean"] = named_plans(tiny)["lean"]
    if name == RERANKER:
        labelled(checkpoint)
        task = None
    if name in ("qwen2_vl", "qwen2_5_vl"):
        sentence_transformers(checkpoint, tiny.config.get_text_config().hidden_size)
        task = None
    export_bundle(str(checkpoint), folder / "bundle", plans, image_size=tiny.size, text_capacity=512, task=task)


def expected(tiny: Case, picture: Any | None, text: str | None) -> NDArray[np.float32]:
    """transformers' last token behind its last norm, of length 1, float32 [D]; a chat by its own processor."""
    row = _last_row(tiny, INSTRUCTIONS[str(tiny)], [], picture, text)
    return np.asarray(torch.nn.functional.normalize(row.float(), dim=-1).numpy())


def judged(tiny: Case, query: str, picture: Any | None, text: str | None) -> float:
    """transformers' logit of yes less that of no, in the prompt of the model's card."""
    before = [f"<Instruct>: {INSTRUCTION}<Query>:", query, "\n<Document>:"]
    row = _last_row(tiny, SYSTEM, before, picture, text)
    no, yes = tiny.model.lm_head(row)[[*LABELS]].tolist()
    return float(yes - no)


def _last_row(tiny: Case, system: str, before: list[str], picture: Any | None, text: str | None) -> torch.Tensor:
    """Behind the last norm, [D]."""
    content = [{"type": "text", "text": one} for one in before]
    content += [{"type": "image"}] if picture is not None else []
    content += [{"type": "text", "text": text}] if text is not None else []
    settings = [{"role": "system", "content": [{"type": "text", "text": system}]}]
    messages = [*settings, {"role": "user", "content": content}]
    inputs = family_chat.ask(tiny, family_chat.processor(tiny), messages, [picture] if picture is not None else [])
    with torch.no_grad():
        rows: torch.Tensor = tiny.model.model(**inputs).last_hidden_state
    return rows[0, -1]
