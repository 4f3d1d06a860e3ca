"""``luvc-export serve``."""

from __future__ import annotations

import json
import sys

from luvc_export.cli import options
from luvc_export.cli.options import grouped
from luvc_export.core.options import option
from luvc_export.runtime.session_options import SessionOptions
from luvc_export.serve.options import ServeOptions


@grouped
def serve(
    *,
    bundles: options.Bundles,
    asked: SessionOptions,
    served: ServeOptions,
    log_format: str = option("text", "Of a line a request on stderr: text or json.", choices=("text", "json")),
    quiet: bool = option(False, "No line a request, nor about the models."),
    as_json: options.Json = False,
) -> None:
    """Answer over HTTP as OpenAI's chat completions and responses, with a page to try it at /.

    SIGTERM finishes what runs and ends. What is understood, limits and a load script: docs/serving.md.

    [dim]luvc-export serve qwen-bundle qwen-bundle#none --port 8000[/dim]
    """
    from luvc_export.serve import request_log
    from luvc_export.serve.models import open_models
    from luvc_export.serve.server import Server

    request_log.configure(log_format, quiet)  # type: ignore[arg-type]
    with options.progress(as_json) as tell:
        models = open_models(bundles, asked, tell)
    server = Server(served, models)
    listening = server.listen()
    shown = f"[{served.host}]" if ":" in served.host.strip("[]") else served.host
    address = f"http://{shown}:{listening.getsockname()[1]}"
    names = list(models.by_name)

    def said() -> None:
        for model in models.by_name.values():
            request_log.LOG.info("serving", extra={"fields": model.runs_on()})
        if as_json:
            print(json.dumps({"address": address, "models": names}), flush=True)
        elif log_format == "json":
            request_log.LOG.info("listening", extra={"fields": {"address": address, "models": names}})
        else:
            print(f"{address} answers as {', '.join(names)}; Ctrl-C ends", file=sys.stderr, flush=True)

    request_log.LOG.info("loading", extra={"fields": {"models": names}})
    server.run(listening, said)
