"""Chat templates that count nothing, hang or fill memory: each was one that did, in the process that asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.confined import helpers
from luvc_export.runtime.confined.helpers import Helpers, TooMuchError
from luvc_export.runtime.prompt import template
from luvc_export.runtime.prompt.template import ChatTemplate

RENDERING = "luvc_export.runtime.prompt.rendering"
NESTED = (
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% set n.y = [n.y, n.y] %}{% endfor %}"
)
ATTACKS = {
    "sum of lists": "{{ ([[0] * 2000] * 2000) | sum(start=[]) | length }}",
    "map": "{{ range(3999999) | map('string') | map('center', 3000) | list | length }}",
    "pow": "{% for i in range(99) %}{{ (9 ** 999999) % 7 }}{% endfor %}",
    "in": NESTED + "{{ n.x in [n.y] }}",
    "equality": NESTED + "{{ n.x == n.y }}",
    "sort": NESTED + "{{ [n.x, n.y] | sort }}",
    "sort of numbers": "{{ range(3999999) | map('string') | sort | list | length }}",
    "macros": "{% macro f(n) %}{{ f(n-1) ~ f(n-1) if n else 'x' }}{% endmacro %}{{ f(30) }}",
    "translate": "{{ ('x' * 3999999).translate({120: 'y' * 3999999}) | length }}",
    "replace": "{{ ('x' * 99999) | replace('x', 'y' * 99999) | length }}",
    "width in an argument": "{{ '%*d' % (999999999, 1) }}",
    "width in a field": "{{ '{:{}}'.format(1, 999999999) }}",
    "many widths": "{{ ('{:3999999}' * 1000).format(*range(1000)) }}",
    "tojson": NESTED + "{{ n.x | tojson }}",
    "tojson indent": "{{ messages | tojson(indent=10**9) }}",
    "join": "{% set x = ['x' * 3999999] * 3999 %}{{ x | join | length }}",
    "batch": "{{ ('x' * 3999999) | batch(1) | list | length }}",
    "wordwrap": "{{ (('a ' * 1999999) | wordwrap(1)) | length }}",
    "a long source": "{{ 'a' is string }}" * 200_000,
}
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Helpers]:
    """Helpers of 0.1 s and 128 MiB."""
    helpers = Helpers(RENDERING, 2**27, 0.1)
    monkeypatch.setattr(template, "_helpers", helpers)
    yield helpers
    helpers.close()


def render(source: str) -> str:
    return ChatTemplate(source, "bundle/chat_template.jinja", {}).render(CHAT)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ATTACKS)
def test_what_takes_too_much_is_ended(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(ATTACKS[name])
    assert caught.value.what in ("the chat template takes too much", "the chat template does something it must not")
    assert caught.value.where == "bundle/chat_template.jinja"


@pytest.mark.usefixtures("short")
def test_the_next_rendering_works_and_says_the_same() -> None:
    with pytest.raises(UsageError, match=r"more than 0\.1 s"):
        render(ATTACKS["equality"])
    with pytest.raises(UsageError, match="more memory than it may have"):
        render(ATTACKS["width in a field"])
    assert render("{{ messages[0].content }}") == "hello"
    with pytest.raises(UsageError, match="refuses these messages"):
        render("{{ raise_exception('no') }}")


def test_a_helper_that_waits_for_a_core_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the clock refused templates that had not computed for a tenth of their seconds."""
    patient = Helpers(RENDERING, 2**27, 2, clock=0.2)
    monkeypatch.setattr(template, "_helpers", patient)
    assert render("a") == "a"
    process = patient._idle[0]._child.process.pid
    os.kill(process, signal.SIGSTOP)
    later = threading.Timer(0.7, os.kill, (process, signal.SIGCONT))
    later.start()
    assert render("b") == "b"
    later.join()
    monkeypatch.setattr(helpers, "_PATIENT", 2)
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(UsageError, match=r"takes too much(.|\n)*more than 0\.2 s"):
        render("c")
    patient.close()


def test_a_helper_that_sleeps_is_ended_by_the_clock(short: Helpers) -> None:
    """Sabotage: it computes nothing and answers nothing."""
    assert render("a") == "a"
    helper = short._idle[0]
    until = time.monotonic() + 30
    while helper._status()[0] != "S" and time.monotonic() < until:  # it goes to sleep where a core is free for that
        time.sleep(0.01)
    begun = helper._computed()
    assert begun is not None and not helper._waits_for_a_core(begun), "it sleeps until it is asked"
    assert not helper._waits_for_a_core(begun - 1), "it had its seconds"


def test_the_limits_are_what_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: with limits that nothing reaches, one attack goes on and the other fills memory and answers."""
    endless = Helpers(RENDERING, 2**40, 3600)
    monkeypatch.setattr(template, "_helpers", endless)
    with pytest.raises(UsageError, match="must not"):  # 300 MB were made before their size was seen
        render("{{ '{:{}}'.format(1, 300000000) }}")
    ended: list[BaseException] = []

    def attack() -> None:
        try:
            render(ATTACKS["equality"])
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=attack)
    before = children()
    thread.start()
    time.sleep(0.5)
    assert not ended
    for process in children() | before:
        os.kill(process, signal.SIGKILL)
    thread.join(10)
    assert isinstance(ended[0], UsageError)
    endless.close()


def children() -> set[int]:
    return {int(one) for one in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_threads_render_at_the_same_time(short: Helpers) -> None:
    def ask(number: int) -> str:
        return ChatTemplate("{{ messages[0].content }}" + f"{number}", "x", {}).render(CHAT)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(200))) == [f"hello{number}" for number in range(200)]
    assert 1 <= len(short._idle) <= 4


def test_a_helper_that_was_killed_between_two_calls_is_replaced(short: Helpers) -> None:
    assert render("a") == "a"
    os.kill(short._idle[0]._child.process.pid, signal.SIGKILL)
    short._idle[0]._child.process.wait()
    assert render("b") == "b"


def test_an_interrupted_call_s_answer_is_not_the_next_one_s(short: Helpers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert render("a") == "a"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(helpers.frames, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render("b")
    assert render("c") == "c"


FORKS = """
import os
from luvc_export.runtime.prompt.template import ChatTemplate
def render(source):
    return ChatTemplate(source, "x", {}).render([])
assert render("a") == "a"
process = os.fork()
for number in range(50):
    assert render(f"{process} {number}") == f"{process} {number}"
if process:
    assert os.waitpid(process, 0)[1] == 0
"""


def test_a_forked_process_has_helpers_of_its_own() -> None:
    """With its parent's, one would read what the other was told."""
    subprocess.run([sys.executable, "-W", "error", "-c", FORKS], check=True, timeout=60)


def test_without_an_interpreter_nothing_is_rendered_here_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "_helpers", Helpers(RENDERING, 2**27, 1))
    monkeypatch.setattr(helpers.sys, "executable", "")
    with pytest.raises(MachineError, match="cannot be started"):
        render("a")
    monkeypatch.undo()
    broken = Helpers("luvc_export.no_such_module", 2**27, 1)
    with pytest.raises(MachineError, match="ended while it was started"):
        broken.call({})


def test_a_helper_sees_no_standard_input_and_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import os, sys\n"
        "def task(said, data):\n"
        "    assert not said\n"
        "    print('noise', flush=True); os.write(1, b'noise'); os.write(2, b'noise')\n"
        "    return {'read': sys.stdin.read()}, data[::-1]\n"
    )
    loud = Helpers("loud", 2**28, 5)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        assert loud.call({}, b"abc") == ({"read": ""}, b"cba")
        with pytest.raises(TooMuchError, match="ended with code 1"):
            loud.call({"ends": True})
    loud.close()
