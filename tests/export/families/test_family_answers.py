"""A session answers a chat as transformers' processor and ``generate`` do: same token ids in, same 32 tokens out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import family_chat
import family_harness as harness
import pytest
import torch
from family_checkpoints import find, quick
from family_harness import GREEDY, MADE_HERE, Case, case
from family_questions import scenery
from slow_cases import slow_but
from torch_backend import TorchBackend

from luvc_export.bundle.folder import Bundle, record
from luvc_export.bundle.manifest import PlanEntry
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.exported_manifest import make_manifest
from luvc_export.export.options import Options
from luvc_export.runtime.session import Session

FAMILIES = MADE_HERE


def session(tiny: Case, folder: Path, plan: Plan, **options: Any) -> Session:
    """A bundle's session on the torch modules: everything but the graphs is what an export writes."""
    checkpoint = open_checkpoint(str(family_chat.save(tiny, folder)))
    chosen = Options(tiny.size, **options)
    files = {path.name: record(path) for path in folder.iterdir() if path.suffix != ".safetensors"}
    entries = {"plan": PlanEntry(plan, "", "", size=tiny.size, precision=chosen.dtype)}
    manifest = make_manifest(checkpoint, chosen, entries, "copy", {}, set(), files)
    return Session(Bundle(folder, manifest), TorchBackend(tiny, plan))


def pictures(tiny: Case, count: int) -> list[Any]:
    return [image[0].numpy() for image in tiny.images(count)]


def chat(images: int) -> list[dict[str, Any]]:
    """A system prompt, and a question with its pictures first, in the middle and at the end."""
    asked: list[dict[str, str]] = [{"type": "text", "text": "Hi"}] if images == 2 else []
    for index in range(images):
        asked += [{"type": "image"}, {"type": "text", "text": f" and {index}"}][: 2 - (index == 1)]
    return [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": asked or [{"type": "text", "text": "2 + 2?"}]},
    ]


def best(tiny: Case, inputs: dict[str, Any], tokens: list[int]) -> list[int]:
    """What Hugging Face finds best after a prompt and after each of ``tokens`` but the last: them, if it says so too.

    In one call, where no token is read otherwise than in a prompt.
    """
    if not harness.reads_as_prompt(tiny, tokens):
        return harness.reference_greedy(tiny, inputs, len(tokens))
    if hasattr(tiny.model.model, "rope_deltas"):
        tiny.model.model.rope_deltas = None
    more = {"input_ids": torch.tensor([tokens[:-1]])}
    more |= {name: torch.zeros_like(more["input_ids"]) for name in inputs if name.endswith("token_type_ids")}
    with torch.no_grad():
        out = tiny.model(**inputs | {name: torch.cat([inputs[name], part], 1) for name, part in more.items()})
    return [int(token) for token in out.logits[0, -len(tokens) :].argmax(-1)]


def asked(tiny: Case, messages: list[Any], shown: list[Any], **images: Any) -> dict[str, Any]:
    """A chat as Hugging Face's model takes it."""
    inputs = family_chat.ask(tiny, family_chat.processor(tiny, **images), messages, shown)
    inputs.pop("attention_mask")
    if not shown:
        inputs.pop("mm_token_type_ids", None)
    return inputs


def theirs(tiny: Case, messages: list[Any], shown: list[Any], **images: Any) -> tuple[list[int], list[int]]:
    """Hugging Face's prompt ids and greedy answer."""
    inputs = asked(tiny, messages, shown, **images)
    return inputs["input_ids"][0].tolist(), harness.reference_greedy(tiny, inputs)


@pytest.mark.parametrize("name", slow_but(quick(), FAMILIES))
def test_a_chat_is_answered_as_by_transformers(name: str, tmp_path: Path) -> None:
    """No picture, one, two: with a system prompt, through the checkpoint's own chat template.

    The last answer is ``generate``'s, of the others each token is what it would take.
    """
    tiny = case(name)
    tiles = ((1, 1), (1, 2)) if find(name).cuts_always else ((1, 1),)
    ours = session(tiny, tmp_path, tiny.plan, tiles=tiles)
    for count in (0, 1, 2)[find(name).needs_picture :]:
        shown = pictures(tiny, count)
        inputs = asked(tiny, chat(count), shown)
        request = ours.prepare(shown, messages=chat(count))
        assert family_chat.expanded(tiny, request.token_ids) == inputs["input_ids"][0].tolist()
        tokens = [*ours.generate(shown, messages=chat(count), max_new_tokens=GREEDY).token_ids]
        assert tokens == (harness.reference_greedy(tiny, inputs) if count == 2 else best(tiny, inputs, tokens))
        assert len(tokens) == GREEDY


#: What each processor must be told to make two tiles of the picture below.
SPLITTING = {name: dict(cut) for name in FAMILIES if (cut := find(name).two_tiles) is not None}


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("name", slow_but(quick(), SPLITTING))
def test_tiles_are_cut_and_written_as_by_transformers(name: str, tall: bool, tmp_path: Path) -> None:
    """One bundle, two grids: the picture's shape decides. Uncompressed, so every token has its own place."""
    tiny = case(name)
    if name == "lfm2_vl":  # its processor knows square tiles alone
        tiny = harness.build(tiny.family, tiny.family.tiny_config(), size=(64, 64))
    ours = session(tiny, tmp_path, tiny.plan, tiles=((1, 2), (2, 1)))
    shown = [scenery(tiny, 2, 1) if tall else scenery(tiny, 1, 2)]
    prompt, answer = theirs(tiny, chat(1), shown, **SPLITTING[name])
    request = ours.prepare(shown, messages=chat(1))
    assert request.tiles[0] == ((2, 1) if tall else (1, 2))
    assert len(request.images) == 3
    assert family_chat.expanded(tiny, request.token_ids) == prompt
    assert list(ours.generate(shown, messages=chat(1), max_new_tokens=GREEDY).token_ids) == answer


def test_tiles_laid_out_one_by_one_move_the_answer(tmp_path: Path) -> None:
    """LLaVA-OneVision's rows run through all tiles side by side, and each ends with a newline."""
    tiny = case("llava_onevision")
    ours = session(tiny, tmp_path, tiny.plan, tiles=((1, 2),))
    request = ours.prepare(scenery(tiny, 1, 2), messages=chat(1))
    seen = ours.default.encode_images(request.images)
    right, wrong = (ours.default.run(request.token_ids, seen, blocks=blocks).logits for blocks in (request.blocks, {}))
    assert harness.difference(right, wrong) > harness.SABOTAGE


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("llava", "llava does not cut pictures into tiles(.|\n)*got: 2x3"),
        ("qwen2_vl", "qwen2_vl does not cut pictures(.|\n)*--image-size sets how large it is"),
        ("llava_onevision", "this model does not cut pictures so(.|\n)*expected: 1x1, 1x2, 2x1"),
    ],
)
def test_tiles_a_family_does_not_have(name: str, refusal: str) -> None:
    with pytest.raises(UsageError, match=refusal):
        case(name).family.cuts(case(name).config, [(2, 3)])
