"""Random models, one for each form of calls: their templates write tools, calls and results as that form does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import tiny_bundle

from luvc_export.bundle import folder as bundles
from luvc_export.runtime.session import Session

_VALUE = "{{ v if v is string else v | tojson }}"
_PARAMETERS = "{% for k, v in f.arguments.items() %}<parameter={{ k }}>\n" + _VALUE + "\n</parameter>\n{% endfor %}"
_GEMMA = '{% for k, v in f.arguments.items() %}{{ k }}:<|"|>' + _VALUE + '<|"|>{{ "," if not loop.last }}{% endfor %}'
_PYTHON = '{% for k, v in f.arguments.items() %}{{ k }}="' + _VALUE + '"{{ ", " if not loop.last }}{% endfor %}'
#: What templates of a form write for a call ``f``; the checkpoints' own say it so.
CALLS = {
    "hermes": '<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>',
    "qwen-xml": "<tool_call>\n<function={{ f.name }}>\n" + _PARAMETERS + "</function>\n</tool_call>",
    "gemma": "<|tool_call>call:{{ f.name }}{{ '{' }}" + _GEMMA + "}<tool_call|>",
    "lfm2": "<|tool_call_start|>[{{ f.name }}(" + _PYTHON + ")]<|tool_call_end|>",
    "mistral": "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}",
    "mistral-old": '[TOOL_CALLS] [{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}]',
    "llama": '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}',
}


def template(form: str, end: str = "") -> str:
    """A template of a form, with what it has at its end."""
    last = "{% endfor %}{% endif %}{% endfor %}"
    calls = "{% for c in m.tool_calls or [] %}{% set f = c.function %}" + CALLS[form] + "{% endfor %}{% endfor %}"
    body = tiny_bundle.TEMPLATE.replace(last, "{% endfor %}{% endif %}" + calls)
    return "{% for t in tools or [] %}{{ t.function | tojson }} {% endfor %}" + body + end


def write(folder: Path, text: str, marks: tuple[str, ...] = (), context: int = 1024) -> Session:
    """The tiny bundle with that template and those tokens in the place of two of its own, of which one is special."""
    bundle = tiny_bundle.write(folder, context=context)
    data = json.loads(tiny_bundle.tokenizer().to_str())
    for token, mark in zip(data["added_tokens"][-2:], marks, strict=False):
        token |= {"content": mark, "special": mark == marks[0]}
    changed = {"tokenizer.json": json.dumps(data), "tokenizer_config.json": json.dumps({"chat_template": text})}
    manifest = bundle.manifest
    for name, content in changed.items():
        (folder / name).write_text(content, encoding="utf-8")
        manifest.files[name] = bundles.record(folder / name)
    bundles.write_manifest(folder, replace(manifest, prompt=replace(manifest.prompt, text_capacity=context)))
    return Session(bundles.load(folder), "cpu", threads=1)
