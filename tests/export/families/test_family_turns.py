"""A second turn keeps the pictures of the first: the same answer as running the whole chat, on kept caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from family_checkpoints import find, quick
from family_harness import MADE_HERE, case
from slow_cases import slow_but
from test_family_answers import chat, pictures, session, theirs
from torch_backend import TorchBackend

from luvc_export.errors import UsageError
from luvc_export.export import families
from luvc_export.runtime.generation.result import Generation
from luvc_export.runtime.session import Session

#: Whose prompts are seen both ways.
ONE_TURN = [name for name in MADE_HERE if (own := families.find(name, "test")).prefix(own.tiny_config())]
FAMILIES = [name for name in MADE_HERE if name not in ONE_TURN]
#: Whose second turn goes on from pruned rows of its own kind: beside places and states, on planes, on time axes, alone.
PRUNED = ("gemma3", "gemma4", "lfm2_vl", "llava", "qwen2_5_vl", "qwen3_5", "qwen3_vl")
FEW = 3


def first_turn(ours: Session, shown: list[Any]) -> tuple[Generation, str]:
    """A first answer, of letters: what a random model says otherwise is not read back as the ids it was."""
    backend = cast(TorchBackend, ours.backend)
    backend.printable = True
    first = ours.generate(shown[:1], messages=chat(1), max_new_tokens=FEW)
    backend.printable = False
    return first, first.text


def turns(answer: str) -> list[dict[str, Any]]:
    """A first exchange about one picture, and a second question with another picture."""
    later = [{"type": "text", "text": "and this?"}, {"type": "image"}]
    answered = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return [*chat(1), answered, {"role": "user", "content": later}]


@pytest.mark.parametrize(
    ("name", "plan"),
    slow_but(quick(), [*((name, "none") for name in FAMILIES), *((name, "thirds") for name in PRUNED)]),
)
def test_a_second_turn_equals_the_whole_chat(name: str, plan: str, tmp_path: Path) -> None:
    """Uncompressed it equals Hugging Face; compressed, a run over everything: what is kept does not hang on what is
    asked later."""
    tiny = case(name)
    ours = session(tiny, tmp_path, tiny.plan if plan == "none" else tiny.thirds)
    shown = pictures(tiny, 2)
    first, answer = first_turn(ours, shown)
    messages = turns(answer)
    second = ours.generate(shown, messages=messages, after=first, max_new_tokens=8)
    assert second.reused == len(ours.prepare(shown[:1], messages=chat(1)).token_ids) + FEW - 1
    whole = ours.generate(shown, messages=messages, max_new_tokens=8)
    assert whole.reused == 0
    assert second.token_ids == whole.token_ids
    assert second.visual_tokens == whole.visual_tokens
    if plan == "none" and not find(name).cuts_always:
        assert list(second.token_ids) == theirs(tiny, messages, shown)[1][:8]


@pytest.mark.parametrize("name", ONE_TURN)
def test_a_prompt_seen_both_ways_keeps_nothing_of_an_earlier_turn(name: str, tmp_path: Path) -> None:
    ours = session(case(name), tmp_path, case(name).plan)
    first, answer = first_turn(ours, pictures(case(name), 1))
    with pytest.raises(UsageError, match=r"sees its whole prompt both ways(.|\n)*one question at a time"):
        ours.generate(pictures(case(name), 2), messages=turns(answer), after=first)


def test_another_picture_in_an_old_place_runs_everything_again(tmp_path: Path) -> None:
    tiny = case("qwen2_vl")
    ours, shown = session(tiny, tmp_path, tiny.plan), pictures(tiny, 2)
    first, answer = first_turn(ours, shown)
    for changed in ([shown[1], shown[1]], [shown[0]]):
        messages = turns(answer) if len(changed) == 2 else [{"role": "user", "content": chat(1)[1]["content"]}]
        again = ours.generate(changed, messages=messages, after=first, max_new_tokens=FEW)
        assert again.reused == 0
        assert again.token_ids == ours.generate(changed, messages=messages, max_new_tokens=FEW).token_ids


def test_a_conversation_can_branch(tmp_path: Path) -> None:
    """States are never changed: two second turns after one first turn do not disturb each other."""
    tiny = case("qwen2_vl")
    ours, shown = session(tiny, tmp_path, tiny.thirds), pictures(tiny, 2)
    first, answer = first_turn(ours, shown)
    one = ours.generate(shown, messages=turns(answer), after=first, max_new_tokens=FEW)
    ours.generate([shown[0], np.zeros_like(shown[1])], messages=turns(answer), after=first, max_new_tokens=FEW)
    assert ours.generate(shown, messages=turns(answer), after=first, max_new_tokens=FEW).token_ids == one.token_ids
