from __future__ import annotations

import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle
from transformers import PreTrainedTokenizerFast, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

import luvc_export
from luvc_export.bundle import folder as bundles
from luvc_export.core.files.template_source import FILES
from luvc_export.errors import BundleError, UsageError
from luvc_export.export.reading.remarks import chat_template
from luvc_export.runtime.prompt.template import ChatTemplate, described, load_template, plain_data

QWEN2_VL = """{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}
{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}
{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}
{% set image_count.value = image_count.value + 1 %}
{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA = """{{- bos_token }}{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}{{ raise_exception('unknown role ' ~ message.role) }}{% endif %}
    {{- '[' + message['role'] | upper + '] ' + (message['content'] | trim if message['content'] is string else
        message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ')) }}
    {%- if message.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}
    {%- if loop.index0 is divisibleby(2) %}{% continue %}{% endif %}
{% endfor %}{{ '\\n' ~ (messages | length) ~ messages[-1] | tojson }}"""

FILTERS = """{%- macro part(x, n=2) -%}{{ '%s-%03d' | format(x, n) }}|{{ x | indent(4) }}|{{ x.split(',')[0] }}
{%- endmacro %}
{%- set found = dict(a=1, b=messages | length) %}{% set parts = [] %}
{%- for k, v in found.items() %}{{ k }}={{ v * 2 }}{{ ', ' if not loop.last }}{% endfor %}
{{ part('a,b\\nc') }} {{ '-' * 5 }} {{ [1] * 3 }} {{ range(3) | list }} {{ tools is none }} {{ nothing is defined }}
{% for m in messages recursive %}{{ loop.depth }}{{ m.role }}{% if m.more %}{{ loop(m.more) }}{% endif %}{% else %}none
{% endfor %}{{ 7 % 4 }} {{ 2 ** 5 }} {{ 'a' ~ 1 ~ none }} {{ messages | map(attribute='role') | unique | join('+') }}"""

CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is <this> & 'that'? \u00e9\u4f60"}]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image"}, {"type": "text", "text": "?"}]},
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source: str, messages: list[dict[str, Any]] = CHAT) -> str:
    return ChatTemplate(source, "bundle/chat_template.jinja", SPECIAL).render(messages)


@pytest.mark.parametrize(
    "source", [QWEN2_VL, LLAMA, FILTERS, tiny_bundle.TEMPLATE], ids=["qwen", "llama", "rest", "tiny"]
)
def test_renders_what_transformers_renders(source: str) -> None:
    wanted, _ = render_jinja_template([CHAT], chat_template=source, add_generation_prompt=True, **SPECIAL)
    assert render(source) == wanted[0]


def test_the_glyph_checkpoints_template_as_its_tokenizer_applies_it() -> None:
    folder = Path(luvc_export.__file__).parent / "demo" / "checkpoint"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    wanted = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    source = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    assert render(source, CHAT[:1]) == wanted


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ ''|attr('__class__') }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ dict.__class__.__mro__ }}",
        "{{ range.__self__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{0.__class__}'.format_map({'0': ''}) }}",
        "{% set _ = messages.append(1) %}",
        "{% set _ = messages[0].update(role='x') %}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_nothing_leads_out_of_the_sandbox(attack: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(attack)
    assert "chat_template.jinja" in str(caught.value)


@pytest.mark.parametrize(
    "attack",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'x' * 10**10 }}",
        "{{ 10**10 * 'x' }}",
        "{{ [0] * 10**10 }}",
        "{{ 10**(10**10) }}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{{ '%999999999999d' % 1 }}",
        "{{ '{:>999999999999}'.format(1) }}",
        "{{ '%999999999999d' | format(1) }}",
        "{{ 'x'.ljust(10**12) }}",
        "{{ 'x' | center(10**12) }}",
        "{{ 'x' | indent(10**12, true) }}",
        "{{ lipsum(n=10**9) }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    ],
)
def test_templates_that_run_away_are_ended(attack: str) -> None:
    begin = time.process_time()
    with pytest.raises(UsageError) as caught:
        render(attack)
    assert "chat_template.jinja" in str(caught.value)
    assert time.process_time() - begin < 60, "2**60 steps would take for ever"


@pytest.mark.parametrize(
    ("source", "what", "got"),
    [
        ("{% if %}", "cannot be parsed", "line 1"),
        ("a\n{% for x in y %}", "cannot be parsed", "line 2"),
        ("{{ raise_exception('roles must alternate') }}", "refuses these messages", "roles must alternate"),
        ("{{ ''.__class__ }}", "something it must not", "__class__"),
        ("{{ 1 / 0 }}", "fails", "ZeroDivisionError"),
        ("{{ messages[0].content.nothing.more }}", "refuses these messages", "no attribute 'nothing'"),
        ("{{ 'x' * 10**10 }}", "something it must not", "10,000,000,000 characters"),
        ("{% for i in range(4000000) %}{% endfor %}", "something it must not", "more than 300,000 steps"),
        ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "does not end", "4,000,000 characters"),
    ],
)
def test_errors_say_what_is_wrong(source: str, what: str, got: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(source)
    assert what in caught.value.what
    assert got in str(caught.value.got)
    assert caught.value.where == "bundle/chat_template.jinja"


def test_templates_see_plain_data_only() -> None:
    class Rich(dict[str, Any]):
        def save(self) -> str:
            raise AssertionError("a template called a method of the caller's object")

    message = {"role": "user", "content": [{"type": "image", "image": object()}, Rich(text="x", type="text")]}
    assert plain_data(message)["content"] == [{"type": "image", "image": "<object>"}, {"type": "text", "text": "x"}]
    assert render("{{ messages[0].content[1].save is defined }}", [message]) == "False"
    assert plain_data([True, 1, 2.5, None, ("a",)]) == [True, 1, 2.5, None, ["a"]]


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"tokenizer_config.json": {"chat_template": "A"}}, "A"),
        ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.json": {"chat_template": "B"}}, "B"),
        ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": "C"}, "C"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "default", "template": "D"}]}}, "D"),
        ({"tokenizer_config.json": {}}, None),
    ],
)
def test_where_the_template_is_found(fresh: Path, files: dict[str, Any], wanted: str | None) -> None:
    bundle = with_files(fresh, files)
    template = load_template(bundle)
    assert (template and template.source) == wanted


@pytest.mark.parametrize("held", [held for size in range(1, 5) for held in combinations(FILES, size)])
def test_of_several_templates_the_one_transformers_takes(fresh: Path, held: tuple[str, ...]) -> None:
    """In every combination of the four files: bundle, parity and transformers have the same one."""
    files: dict[str, Any] = {"tokenizer_config.json": {}}
    files |= {name: {"chat_template": f"of {name}"} if name.endswith("json") else f"of {name}" for name in held}
    bundle = with_files(fresh, files)
    wanted = ProcessorMixin.get_processor_dict(fresh)[0].get("chat_template") or f"of {held[-1]}"
    template = load_template(bundle)
    own = chat_template(fresh)
    assert template is not None and own is not None and template.source == wanted == own.text
    for name in (*FILES, "luvc.json"):
        (fresh / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ({"chat_template.jinja": "{{ messages }}", "tokenizer_config.json": {}}, "chat_template.jinja"),
        (
            {"chat_template.jinja": "{% if", "tokenizer_config.json": {}},
            "every chat is refused: the chat template cannot",
        ),
        ({"tokenizer_config.json": {}}, "none: prompts are taken as they are, one question at a time"),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "R"}]}},
            "none of the chat templates",
        ),
    ],
)
def test_what_inspect_and_verbose_say_of_it(fresh: Path, files: dict[str, Any], shown: str) -> None:
    assert shown in described(with_files(fresh, files))


def test_a_file_the_manifest_does_not_list_is_not_read(fresh: Path) -> None:
    tiny_bundle.write(fresh)
    (fresh / "chat_template.jinja").write_text("smuggled")
    template = load_template(bundles.load(fresh))
    assert template is not None
    assert template.source == tiny_bundle.TEMPLATE


def test_special_tokens_may_be_objects(fresh: Path) -> None:
    config = {
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "pad_token": None,
        "chat_template": "{{ bos_token }}",
    }
    template = load_template(with_files(fresh, {"tokenizer_config.json": config}))
    assert template is not None
    assert template.special == {"bos_token": "<s>", "eos_token": "</s>"}
    assert template.render(CHAT) == "<s>"


@pytest.mark.parametrize("content", ["{", "[1]", '{"chat_template": 7}', '{"chat_template": [{"name": "rag"}]}'])
def test_a_broken_config_is_named(fresh: Path, content: str) -> None:
    with pytest.raises(BundleError, match=r"tokenizer_config\.json"):
        load_template(with_files(fresh, {"tokenizer_config.json": content}))


def with_files(folder: Path, files: dict[str, Any]) -> bundles.Bundle:
    manifest = tiny_bundle.write(folder).manifest
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
        manifest.files[name] = bundles.record(folder / name)
    bundles.write_manifest(folder, manifest)
    return bundles.load(folder)


@pytest.mark.parametrize("last", ["It is", " It is ", [{"type": "text", "text": "It is"}]])
def test_an_answer_goes_on_as_transformers_has_it(last: Any) -> None:
    chat = [*CHAT, {"role": "assistant", "content": last}]
    wanted, _ = render_jinja_template([chat], chat_template=QWEN2_VL, continue_final_message=True, **SPECIAL)
    template = ChatTemplate(QWEN2_VL, "bundle/chat_template.jinja", SPECIAL)
    assert template.render(chat, continues=True) == wanted[0]
    with pytest.raises(UsageError, match="the answer cannot go on with the last message"):
        template.render([*CHAT, {"role": "assistant", "content": ""}], continues=True)


def test_values_reach_the_template() -> None:
    template = ChatTemplate(QWEN2_VL, "bundle/chat_template.jinja", SPECIAL)
    assert "Picture 1: " in template.render(CHAT, {"add_vision_id": True})
    assert not template.render(CHAT, {"add_generation_prompt": False}).endswith("assistant\n")
    with pytest.raises(UsageError, match="own values cannot be given") as caught:
        template.render(CHAT, {"messages": [], "tools": []})
    assert caught.value.got == "messages, tools"
