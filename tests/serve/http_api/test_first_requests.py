"""The first requests of a server come together: what msgspec knows of them is built before, or the process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("msgspec", reason="pip install 'luvc-export[serve]'")

_TOGETHER = """
import importlib, sys, threading
from luvc_export.serve.interfaces import protocol
sys.setswitchinterval(1e-6)
body = b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}'
parsed = []
for _ in range(20):
    importlib.reload(protocol)
    at_once = threading.Barrier(8)
    def parse():
        at_once.wait()
        parsed.append(protocol.parse(body).chat.model)
    threads = [threading.Thread(target=parse) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(len(parsed))
"""


def test_first_requests_at_once() -> None:
    """It ended with SIGSEGV within a few rounds."""
    done = subprocess.run([sys.executable, "-c", _TOGETHER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "160"), done.stderr
