"""``luvc-export serve``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from luvc_export.cli import options, sampling_options


def serve(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Bundle folder, or FOLDER#PLAN; several.")],
    backend: options.Backend = "auto",
    arithmetic: options.Arithmetic = "auto",
    threads: options.Threads = None,
    speculate: options.Speculate = None,
    lora: options.Adapters = None,
    lora_dir: Annotated[
        list[Path] | None,
        typer.Option("--lora-dir", help="Let clients load adapters below this folder (/v1/load_lora_adapter); repeat."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File with the key that clients must send.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without a key: everybody may ask.")
    ] = False,
    media_dir: Annotated[
        list[Path] | None, typer.Option("--media-dir", help="Read file: addresses below this folder; repeat.")
    ] = None,
    allow_media_host: Annotated[
        list[str] | None, typer.Option("--allow-media-host", help="Fetch pictures from this host; repeat.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="Name clients may call the server by; repeat.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option("--allow-origin", help="Origin whose pages may call (CORS); repeat.")
    ] = None,
    queue: Annotated[int, typer.Option("--queue", min=1, max=4096, help="Requests that wait; more are told 429.")] = 16,
    rows: Annotated[int, typer.Option("--rows", min=1, max=64, help="Answers that grow at once.")] = 8,
    max_body: Annotated[
        str, typer.Option("--max-body", help="Size of a request, and of a picture it names.")
    ] = "32MiB",
    max_images: Annotated[
        int, typer.Option("--max-images", min=0, max=1024, help="Pictures and videos of a request.")
    ] = 16,
    image_cache: Annotated[
        str, typer.Option("--image-cache", help="Memory for encoded pictures and their keys and values; 0 for none.")
    ] = "256MiB",
    stream_timeout: Annotated[
        float, typer.Option("--stream-timeout", min=1, max=3600, help="Seconds after which an unread answer is cut.")
    ] = 30.0,
    trusted_proxy: Annotated[
        list[str] | None, typer.Option("--trusted-proxy", help="Address whose X-Forwarded-For says who asks; repeat.")
    ] = None,
    open_plans: Annotated[
        int | None,
        typer.Option(
            "--open-plans",
            min=1,
            max=100,
            help="Plans loaded at a time where each packs weights; default: 1 of buckets.",
        ),
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="What a request leaves open is greedy, not as the model's makers meant it.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse fields of requests that nobody here has heard of (/v1/fields).")
    ] = False,
    image_tokens: sampling_options.ImageTokens = None,
    max_pixels: sampling_options.MaxPixels = None,
    verify: Annotated[bool, typer.Option("--verify", help="Hash large files again.")] = False,
    log_format: Annotated[
        str, typer.Option("--log-format", help="Of a line a request on stderr: text or json.")
    ] = "text",
    quiet: Annotated[bool, typer.Option("--quiet", help="No line a request, nor about the models.")] = False,
    as_json: options.Json = False,
) -> None:
    """Answer over HTTP as OpenAI's chat completions and responses, with a page to try it at /.

    SIGTERM finishes what runs and ends. What is understood, limits and a load script: docs/serving.md.

    [dim]luvc-export serve qwen-bundle qwen-bundle#none --port 8000[/dim]
    """
    from luvc_export.bundle.adapters.peft_folder import named_folders
    from luvc_export.core.image_tokens import ceiling
    from luvc_export.runtime.media.picture_limits import allow
    from luvc_export.serve import request_log
    from luvc_export.serve.models import open_models
    from luvc_export.serve.options import ServeOptions, byte_size, read_key
    from luvc_export.serve.server import Server

    options.choice("--log-format", log_format, request_log.FORMATS)
    request_log.configure(log_format, quiet)  # type: ignore[arg-type]
    allow(max_pixels)
    most = None if image_tokens is None else ceiling(image_tokens)
    serve_options = ServeOptions(
        host=host,
        port=port,
        api_key=read_key(api_key_file) if api_key_file else None,
        insecure=insecure,
        media_dirs=tuple(folder(path) for path in media_dir or ()),
        lora_dirs=tuple(folder(path, "--lora-dir") for path in lora_dir or ()),
        media_hosts=frozenset(name.lower() for name in allow_media_host or ()),
        allow_hosts=frozenset(name.lower() for name in allow_host or ()),
        allow_origins=frozenset(allow_origin or ()),
        queue=queue,
        rows=rows,
        max_body=byte_size(max_body, "--max-body"),
        max_images=max_images,
        image_cache=byte_size(image_cache, "--image-cache"),
        greedy=greedy,
        strict=strict,
        stream_timeout=stream_timeout,
        trusted_proxies=frozenset(trusted_proxy or ()),
    )
    with options.progress(quiet=as_json) as tell:
        how = (open_plans, most, speculate, named_folders(lora or ()))
        models = open_models(bundles, backend, threads, arithmetic, verify, tell, *how)
    server = Server(serve_options, models)
    listening = server.listen()
    shown = f"[{host}]" if ":" in host.strip("[]") else host
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

    server.run(listening, said)


def folder(path: Path, flag: str = "--media-dir") -> Path:
    """An existing folder, resolved.

    Raises:
        UsageError: It is none.
    """
    from luvc_export.errors import UsageError

    if not path.is_dir():
        raise UsageError("there is no such folder", where=f"{flag} {path}")
    return path.resolve()
