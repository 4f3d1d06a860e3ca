"""A film in `serve` and `batch` is answered as by a session, also where a clip's frames are images of their own.

test_family_plans.py shows it of a bundle, whose clips are pairs of frames; here the families' torch modules answer.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import film_files
import numpy as np
import pytest
from family_harness import case
from test_family_answers import session
from torch_backend import TorchBackend

from luvc_export.batch import answerer
from luvc_export.batch.answerer import Answerer
from luvc_export.batch.source import Row
from luvc_export.serve.models import Models, ServedModel

ROOT = Path(__file__).resolve().parents[3]
QUESTION, LENGTH = "What then?", 4


@pytest.mark.parametrize("name", ["internvl", "smolvlm"])
def test_a_film_is_answered_alike_by_session_batch_and_server(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="pip install 'luvc-export[video]'")
    for folder in ("benchmarks/serving", "tests/serve"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    from running import serving

    tiny = case(name)
    film = film_files.write_film(tmp_path / "clip.mp4", film_files.noise(20, *tiny.size), rate=4)
    own = session(tiny, tmp_path / "bundle", tiny.plan, video=True)
    own.video_frames = lambda: 4  # type: ignore[method-assign]
    shown, see = list[np.ndarray[Any, Any]](), TorchBackend.vision  # tiny models say the same of many a film

    def vision(backend: TorchBackend, images: Any, padding: Any = None) -> Any:
        shown.append(np.asarray(images))
        return see(backend, images, padding)

    monkeypatch.setattr(TorchBackend, "vision", vision)
    answer = own.generate(prompt=QUESTION, video=str(film), max_new_tokens=LENGTH, greedy=True)
    (frames,) = shown
    assert len(np.unique(frames.reshape(len(frames), -1), axis=0)) == len(frames) == 4

    monkeypatch.setattr(answerer, "Session", lambda *_, **__: own)
    lines = [json.dumps({"id": one, "prompt": QUESTION, "video": f"{one}.mp4"}) for one in ("clip", "gone")]
    rows = [Row(number, line, number + 1) for number, line in enumerate(lines)]
    batch = Answerer("bundle", sampling={"max_new_tokens": LENGTH, "greedy": True})
    (clip, first), (gone, second) = batch.answer_lines(rows, tmp_path / "asked.jsonl", tmp_path)
    assert (clip, first.text, first.error) == ("clip", answer.text, None)
    assert len(shown) == 2 and np.array_equal(shown[1], frames)
    assert gone == "gone" and second.text is None and "gone.mp4" in str(second.error)

    address = "data:video/mp4;base64," + base64.b64encode(film.read_bytes()).decode()
    content: list[dict[str, Any]] = [{"type": "video_url", "video_url": {"url": address}}]
    content.append({"type": "text", "text": QUESTION})
    asked = {
        "model": "film",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": LENGTH,
        "temperature": 0,
    }
    with serving(Models([ServedModel("film", own)])) as (_, client):
        reply = client.call("POST", "/v1/chat/completions", json.dumps(asked).encode())
        assert reply.status == 200, reply.body
        assert json.loads(reply.body)["choices"][0]["message"]["content"] == answer.text
        assert np.array_equal(np.concatenate(shown[2:]), frames), "encoded one by one"
        content[0]["video_url"] = {"url": address[: len(address) // 3 // 4 * 4 + 22]}
        damaged = client.call("POST", "/v1/chat/completions", json.dumps(asked).encode())
        assert damaged.status == 400 and "film" in json.loads(damaged.body)["error"]["message"]
