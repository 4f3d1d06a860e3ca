"""A server in this process, on a free port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from calling import Client

from luvc_export.serve.models import Models
from luvc_export.serve.options import ServeOptions
from luvc_export.serve.server import Server


@contextmanager
def serving(models: Models, **options: Any) -> Iterator[tuple[Server, Client]]:
    """A server and a client; ended, and checked to end, afterwards."""
    server = Server(replace(ServeOptions(port=0), **options), models, warm=False)
    listening, up = server.listen(), threading.Event()
    port = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, args=(listening, up.set))
    thread.start()
    try:
        assert up.wait(90)
        yield server, Client("127.0.0.1", port, options.get("api_key"), timeout=60)
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()
