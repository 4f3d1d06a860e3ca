"""From options to a server that listens, and its end: what runs is finished, then the process goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.memory import give_back_blocks_of
from luvc_export.serve.asking import Asker
from luvc_export.serve.engine.loop import Engine
from luvc_export.serve.http.admission import NEWCOMERS
from luvc_export.serve.http.app import App
from luvc_export.serve.http.connections import CONNECTIONS, KEEP_ALIVE, Connection, keep_order
from luvc_export.serve.media.addresses import Addresses
from luvc_export.serve.metrics import Metrics
from luvc_export.serve.models import Models
from luvc_export.serve.options import ServeOptions

#: Connections that wait until the event loop takes them.
BACKLOG = 2048
#: Bytes of an answer that the system keeps for a client who does not read (Linux takes twice as many).
UNREAD = 2**17
#: Bytes of what is given back to the system as soon as it is free: bodies and pictures, and no arrays of a step.
BLOCKS = 2**23
#: Seconds after which a thread that computes lets another go on: the engine's waits for that at every call.
SWITCH = 5e-4
#: Seconds that answers may still take after SIGTERM.
DRAIN = 120


class _Uvicorn(uvicorn.Server):
    """Without uvicorn's own signal handlers, which would raise the signal again after a clean end.

    Args:
        config: uvicorn's.
        connections: Kept at once, see ``http.connections``.
        tick: Called ten times a second.
    """

    def __init__(self, config: uvicorn.Config, connections: int, tick: Callable[[], object]) -> None:
        super().__init__(config)
        self._connections, self._tick = connections, tick

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        keep_order(self.server_state.connections, self._connections)
        self._tick()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _is_news(line: logging.LogRecord) -> bool:
    """Whether the request's own line does not say it: an answer that was cut, as nobody read it."""
    return "returned without completing response" not in line.getMessage()


class Server:
    """A server and what it is made of.

    Args:
        options: Limits and permissions.
        models: What can be asked.
        warm: Run every model once before the server is ready.
    """

    def __init__(self, options: ServeOptions, models: Models, warm: bool = True) -> None:
        self.options, self.models, self.metrics = options, models, Metrics()
        self.cache = FeatureCache(options.image_cache)
        asker = Asker(models, Addresses(options), options.max_images, options.greedy)
        asker.tool_parser, asker.token_ids = options.tool_parser, options.allow_token_ids

        def prepare() -> None:
            if warm:
                models.warm_up()
            for model in models.by_name.values():
                asker.forms(model)

        self.engine = Engine(self.cache, options.rows, options.queue, self.metrics, prepare, self.stop)
        self.app = App(options, models, self.engine, asker, self.metrics)
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "queue": ("Requests that wait.", lambda: self.engine.waiting),
            "rows": ("Answers that grow.", lambda: self.engine.running),
            "stored_responses": ("Responses that are stored.", lambda: len(self.app.store)),
            "stored_response_bytes": ("What they take.", lambda: self.app.store.nbytes),
            "num_requests_waiting": ("Requests that wait.", lambda: self.engine.waiting),
            "num_requests_running": ("Answers that grow.", lambda: self.engine.running),
            "kv_cache_usage_perc": (
                "Of the places for caches of answers (--rows), those in use; 1 is all.",
                lambda: min(1.0, self.engine.running / options.rows),
            ),
        }
        self.metrics.watch(gauges, lambda: self.cache.counts, models.call_times)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                self.app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=DRAIN,
                timeout_keep_alive=KEEP_ALIVE,
                h11_max_incomplete_event_size=64 * 1024,
                http=Connection,
                ws="none",
                proxy_headers=False,
            ),
            CONNECTIONS + (2 + NEWCOMERS) * options.queue + options.rows,
            self.app.store.expire,
        )

    def listen(self) -> socket.socket:
        """Take the port.

        Raises:
            UsageError: It is taken, or the address is not this machine's.
        """
        host = self.options.host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD)  # connections have it from there
        try:
            listener.bind((host, self.options.port))
            listener.listen(BACKLOG)  # who comes before the event loop runs waits, and is not refused
        except OSError as error:
            listener.close()
            where = f"--host {self.options.host} --port {self.options.port}"
            raise UsageError(
                "cannot listen there", where=where, got=error.strerror, fix="choose another port"
            ) from error
        return listener

    def run(self, listening: socket.socket, on_ready: Callable[[], Any] = lambda: None) -> None:
        """Serve until SIGTERM, SIGINT or ``stop``; what runs is finished first.

        Args:
            listening: See ``listen``.
            on_ready: Called in the event loop once requests are answered, as models are loaded.

        Raises:
            LuvcError: A model cannot be loaded.
        """
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        give_back_blocks_of(BLOCKS)
        sys.setswitchinterval(SWITCH)
        self.engine.start()
        try:
            asyncio.run(self._serve(listening, on_ready))
        finally:
            self.app.close()
            self.engine.drain()
            ended = self.engine.join(DRAIN)
        if self.engine.error is not None:
            raise self.engine.error
        if not ended:
            raise MachineError("the engine did not end", got=f"still running after {DRAIN} s")

    def stop(self) -> None:
        """End soon; from any thread."""
        self.app.draining = True
        self._uvicorn.should_exit = True

    async def _serve(self, listening: socket.socket, on_ready: Callable[[], Any]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # Windows, or no main thread
                loop.add_signal_handler(number, self._ended_by_signal)
        serving = asyncio.ensure_future(self._uvicorn.serve(sockets=[listening]))
        while not ((self._uvicorn.started and self.engine.ready.is_set()) or serving.done()):
            await asyncio.sleep(0.005)
        if not serving.done():
            on_ready()
        await serving

    def _ended_by_signal(self) -> None:
        if self.app.draining:
            self._uvicorn.force_exit = True  # the second time at once
        self.stop()
