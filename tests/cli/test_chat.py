"""A chat on the terminal, a prompt from a pipe, and drawings of several pictures."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_words import Cli
from flat_plans import flat_plan
from PIL import Image

from luvc_export import load_bundle
from luvc_export.bundle.folder import Bundle
from luvc_export.cli.answer_lines import save_survival
from luvc_export.cli.chat import Chat
from luvc_export.demo.questions import GlyphCase, cases
from luvc_export.errors import UsageError
from luvc_export.runtime.generation.result import kept_of
from luvc_export.runtime.session import Session

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def asked() -> list[GlyphCase]:
    """Three questions about one picture."""
    questions = [case for case in cases("heldout", 60) if len(case.images) == 1]
    return [case for case in questions if case.picture == questions[0].picture][:3]


@pytest.fixture
def picture(tmp_path: Path, asked: list[GlyphCase]) -> Path:
    path = tmp_path / "my picture.png"
    Image.fromarray(asked[0].images[0]).save(path)
    return path


@pytest.fixture(scope="module")
def session(demo_bundle: Bundle) -> Session:
    return load_bundle(demo_bundle.folder, "cpu", plan="even", threads=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def talk(session: Session, lines: list[Any], images: list[Path] | None = None) -> tuple[Chat, list[Any]]:
    """A chat that was told ``lines``; an exception among them is raised in place of a line."""
    printed: list[Any] = []
    chat = Chat(session, {"max_new_tokens": 8}, images or [], {}, Path("kept.png"), printed.append)
    typed = iter(lines)

    def read(prompt: str) -> str:
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return str(line)

    chat.run(read)
    return chat, printed


def test_a_chat_answers_as_single_questions_do_and_keeps_its_caches(
    session: Session, picture: Path, asked: list[GlyphCase], capsys: pytest.CaptureFixture[str]
) -> None:
    chat, printed = talk(session, ["", f"/image {picture}", asked[0].prompt, asked[1].prompt])
    assert (
        printed[0].text == session.generate(asked[0].images, asked[0].prompt, max_new_tokens=8).text == asked[0].answer
    )
    turns = [{"type": "image"}, {"type": "text", "text": asked[0].prompt}]
    messages = [
        {"role": "user", "content": turns},
        {"role": "assistant", "content": [{"type": "text", "text": printed[0].text}]},
        {"role": "user", "content": [{"type": "text", "text": asked[1].prompt}]},
    ]
    whole = session.generate(asked[0].images, messages=messages, max_new_tokens=8)
    assert printed[1].token_ids == whole.token_ids and printed[1].reused > len(turns) and printed[0].reused == 0
    assert len(chat.messages) == 4 and capsys.readouterr().out == f"{printed[0].text}\n{printed[1].text}\n"


def test_clear_forgets_and_errors_leave_the_chat_as_it_was(
    session: Session, picture: Path, asked: list[GlyphCase], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        f"/image '{picture}'",
        asked[0].prompt,
        "?" * 3000,
        "/imaeg x",
        "/image",
        f"/image {tmp_path / 'gone.png'}",
    ]
    chat, printed = talk(session, [*lines, KeyboardInterrupt(), "/help"])
    err = capsys.readouterr().err
    for text in ("longer than", "did you mean '/image'", "no picture is named", "gone.png", "/clear"):
        assert text in err
    assert len(printed) == 1 and len(chat.messages) == 2 and len(chat.images) == 1 and not chat.waiting
    chat, printed = talk(session, [f"/image {picture}", asked[0].prompt, "/clear", "/quit", asked[1].prompt])
    assert len(printed) == 1 and not chat.messages and not chat.images and chat.last is None


def test_kept_draws_the_last_picture_seen(
    session: Session, picture: Path, asked: list[GlyphCase], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    talk(session, ["/kept", asked[0].prompt, "/kept", "/kept x.txt"])
    err = capsys.readouterr().err
    assert err.count("no answer has seen a picture yet") == 2 and "a PNG is drawn" in err
    talk(session, [asked[0].prompt, "/kept", asked[1].prompt, "/kept new/again.png"], [picture])
    with Image.open("kept.png") as first, Image.open("new/again.png") as again:
        assert first.width > 300 and first.tobytes() == again.tobytes()


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(
    session: Session, asked: list[GlyphCase], picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, stopped = session.backend.decode, []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if not stopped:
            stopped.append(1)
            raise KeyboardInterrupt
        return plain(*arguments, **named)

    monkeypatch.setattr(session.backend, "decode", interrupted)
    chat, printed = talk(session, [f"/image {picture}", asked[0].prompt, asked[0].prompt])
    assert stopped and [answer.text for answer in printed] == [asked[0].answer] and len(chat.messages) == 2


@pytest.mark.slow(beside="cli/test_chat.py::test_on_a_real_terminal")
def test_the_verb_begins_a_chat_on_a_terminal_alone(
    cli: Cli,
    demo_bundle: Bundle,
    picture: Path,
    asked: list[GlyphCase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ("run", demo_bundle.folder, "--plan", "even")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", Terminal(f"{asked[0].prompt}\n/kept\n"))
    code, out, err = cli(*run, "--image", picture, "--show-kept", "mine.png", "--max-new-tokens", 8)
    assert code == 0 and asked[0].answer in out and "visual tokens by layer" in err and Path("mine.png").is_file()
    assert cli(*run, "--json")[0] == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("where is 7?"))
    code, _, err = cli(*run)
    assert code == 2 and "there is no prompt" in err and "--prompt -" in err


def test_a_prompt_from_standard_input(
    cli: Cli, demo_bundle: Bundle, picture: Path, asked: list[GlyphCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", demo_bundle.folder, "--plan", "even", "--image", picture, "--prompt", "-", "--max-new-tokens", 8)

    def write(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))

    write(f"{asked[0].prompt}\n".encode())
    code, out, _ = cli(*run, "--json")
    assert code == 0 and json.loads(out)["text"] == asked[0].answer
    for data, refusal in ((b" \n", "nothing"), (b"a" * 10**6 + b"b", "million"), (b"\xff\xfe\xff", "not text")):
        write(data)
        code, _, err = cli(*run)
        assert code == 2 and refusal in err


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_on_a_real_terminal(demo_bundle: Bundle, asked: list[GlyphCase], picture: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = [
        sys.executable,
        "-m",
        "luvc_export",
        "run",
        demo_bundle.folder,
        "--threads",
        "1",
        "--max-new-tokens",
        "8",
    ]
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        os.write(ours, f"/image {picture}\n{asked[0].prompt}\n/quit\n".encode())
        out, err = process.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0 and asked[0].answer in out.decode(), err


@pytest.mark.slow(beside="cli/test_chat.py::test_a_prompt_from_standard_input")
def test_every_picture_is_drawn(
    cli: Cli, demo_bundle: Bundle, picture: Path, asked: list[GlyphCase], tmp_path: Path
) -> None:
    """Once the first alone was."""
    other = tmp_path / "other.png"
    Image.fromarray(np.full_like(asked[0].images[0], 40)).save(other)
    run = ("run", demo_bundle.folder, "--plan", "thirds", "--prompt", asked[0].prompt, "--max-new-tokens", 1)
    heights = []
    for images in ((picture,), (picture, other)):
        words = [word for image in images for word in ("--image", image)]
        assert cli(*run, *words, "--show-kept", tmp_path / "kept.png")[0] == 0
        with Image.open(tmp_path / "kept.png") as sheet:
            heights.append(sheet.height)
            pixels = np.asarray(sheet)
    assert heights[1] == 2 * heights[0]
    top, low = pixels[: heights[0]], pixels[heights[0] :]
    assert np.median(low[60, 60:300]) == 40 != np.median(top[60, 60:300]), "the second row is not the second picture"
    code, _, err = cli(*run, "--image", picture, "--show-kept", tmp_path / "x.txt")
    assert code == 2 and "ends in .png" in err and not (tmp_path / "x.txt").exists()


def test_images_that_share_a_budget_are_told_apart() -> None:
    plan = flat_plan((2, 2), (3, 0), joint_images=2)
    kept = np.array([[0, 3, 5], [4, 5, 7]])
    assert [kept_of(kept, image, plan).tolist() for image in range(4)] == [[0, 3], [1], [], [0, 1, 3]]


def test_nothing_seen_is_not_drawn(session: Session, tmp_path: Path) -> None:
    answer = session.generate(prompt="where is 7?", max_new_tokens=1)
    with pytest.raises(UsageError, match="no picture was seen"):
        save_survival(answer, tmp_path / "kept.png")
