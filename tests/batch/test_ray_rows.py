"""What of ``luvc_export.ray`` needs no Ray: rows of a Dataset as questions. The rest: benchmarks/scale/ray.sh."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from luvc_export.errors import UsageError
from luvc_export.ray.actor import ask_of


def test_a_row_is_a_question() -> None:
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    for row in ({"prompt": "what?", "image": b"x"}, {"messages": json.dumps(chat), "image": [b"x"], "prompt": None}):
        asked = ask_of(row)()
        assert asked.media == (b"x",) and list(asked.messages) == chat
    film = ask_of({"prompt": "what?", "video": [b"a", b"b"], "fps": 4.0})().media[0]
    assert film.frames == (b"a", b"b") and film.fps == 4.0  # type: ignore[union-attr]
    for wrong in ({"prompt": None}, {"prompt": "x", "messages": "[]"}):
        with pytest.raises(UsageError, match="give a prompt or messages"):
            ask_of(wrong)()


def test_the_actor_is_imported_without_ray() -> None:
    code = "import sys; sys.modules.update(ray=None, pyarrow=None); import luvc_export.ray as r; r.Answerer"
    subprocess.run([sys.executable, "-c", code], check=True)
