"""Every field of a request, and what becomes of it: honoured, refused by name, or harmless. Served at ``/v1/fields``.

What is honoured is read from the records (``protocol``); the tables here say what else is known, of OpenAI's and of
other engines'. A field that would change the answer and cannot be honoured is refused, one that is as good as a
misspelt one too; what nobody has heard of passes, and is named in a header and in the log.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec

from luvc_export.serve.http.api_errors import ApiError, bad_request

#: Values that ask for nothing, and what of ours is nearest.
Refusal = tuple[tuple[Any, ...], str]

#: Would change the answer and is not honoured.
REFUSED: dict[str, Refusal] = {
    "tools": (([],), ""),
    "tool_choice": (("none", "auto"), ""),
    "functions": (([],), ""),
    "function_call": (("none", "auto"), ""),
    "modalities": ((["text"], []), ""),
    "audio": ((), ""),
    "prediction": ((), ""),
    "reasoning_effort": (("none",), ""),
    "reasoning": ((), ""),
    "verbosity": (("medium",), ""),
    "web_search_options": ((), ""),
    # vLLM's and SGLang's
    "best_of": ((1,), "n"),
    "use_beam_search": ((False,), ""),
    "length_penalty": ((1, 1.0), ""),
    "bad_words": (([],), "logit_bias"),
    "allowed_token_ids": ((), "logit_bias"),
    "prompt_logprobs": ((False, 0), "logprobs"),
    "add_special_tokens": ((False,), ""),
    "chat_template": ((), ""),
    "documents": (([],), "messages"),
    "guided_whitespace_pattern": ((), "response_format"),
    "structural_tag": ((), "structured_outputs"),
    "skip_special_tokens": ((True,), ""),
    "spaces_between_special_tokens": ((True,), ""),
    "truncate_prompt_tokens": ((), "messages"),
    "return_tokens_as_token_ids": ((False,), "logprobs"),
    "return_token_ids": ((False,), "logprobs"),
    "logits_processors": (([],), "logit_bias"),
    "custom_logit_processor": ((), "logit_bias"),
    "regex": ((), "guided_regex"),
    "ebnf": ((), "guided_grammar"),
    "min_new_tokens": ((0,), "min_tokens"),
    "no_stop_trim": ((False,), "include_stop_str_in_output"),
    "stop_regex": (([],), "stop"),
    "lora_path": ((), "model"),
    # llama-server's, Ollama's and Hugging Face's
    "grammar": (("",), "guided_grammar"),
    "json_schema": ((), "guided_json"),
    "n_predict": ((-1,), "max_tokens"),
    "num_predict": ((-1,), "max_tokens"),
    "max_new_tokens": ((), "max_tokens"),
    "max_length": ((), "max_tokens"),
    "repeat_penalty": ((1, 1.0), "repetition_penalty"),
    "repeat_last_n": ((), "repetition_penalty"),
    "penalize_nl": ((False,), "repetition_penalty"),
    "n_probs": ((0,), "top_logprobs"),
    "typical_p": ((1, 1.0), "top_p"),
    "tfs_z": ((1, 1.0), "top_p"),
    "top_a": ((0, 0.0), "min_p"),
    "top_n_sigma": ((-1, -1.0), "min_p"),
    "xtc_probability": ((0, 0.0), "min_p"),
    "dynatemp_range": ((0, 0.0), "temperature"),
    "mirostat": ((0,), "temperature"),
    "dry_multiplier": ((0, 0.0), "repetition_penalty"),
    "samplers": ((), ""),
    "do_sample": ((), "temperature"),
    "num_beams": ((1,), ""),
    "no_repeat_ngram_size": ((0,), "repetition_penalty"),
    "options": (({},), ""),
    "format": ((), "response_format"),
    "think": ((False,), "chat_template_kwargs"),
    "images": (([],), "messages"),
    "prompt": ((), "messages"),
    "suffix": ((), ""),
    "stop_sequences": (([],), "stop"),
    "system": ((), "messages"),
    "thinking": ((), "chat_template_kwargs"),
    "max_pixels": ((), "mm_processor_kwargs"),
    "min_pixels": ((), "mm_processor_kwargs"),
    "input": ((), "messages"),
    "instructions": ((), "messages"),
    "max_output_tokens": ((), "max_tokens"),
    "text": ((), "response_format"),
}

#: As ``REFUSED``, of a message and of a part, whatever its type.
REFUSED_INSIDE: dict[str, Refusal] = {
    "prefix": ((False,), "continue_final_message"),
    "images": (([],), "a part image_url"),
    "min_pixels": ((), "mm_processor_kwargs"),
    "max_pixels": ((), "mm_processor_kwargs"),
    "total_pixels": ((), "mm_processor_kwargs"),
    "resized_height": ((), "mm_processor_kwargs"),
    "resized_width": ((), "mm_processor_kwargs"),
    "nframes": ((), "fps"),
    "max_frames": ((), "fps"),
    "video_start": ((), ""),
    "video_end": ((), ""),
}

_LABEL, _COST = "a label of the request", "says how the work is done, not what the answer is"
#: Leaves the answer as it is.
HARMLESS: dict[str, str] = {
    **dict.fromkeys(("user", "metadata", "safety_identifier", "request_id", "rid", "end_user", "trace_id"), _LABEL),
    **dict.fromkeys(("service_tier", "priority", "prompt_cache_key", "prompt_cache_retention", "cache_salt"), _COST),
    **dict.fromkeys(("cache_prompt", "id_slot", "keep_alive", "guided_decoding_backend", "timings_per_token"), _COST),
    "store": "nothing is stored",
    "parallel_tool_calls": "there are no tools to call",
    "moderation": "nothing is moderated here",
}

#: Of ``/v1/responses``: beside those of chat completions, or other than there.
RESPONSES_REFUSED: dict[str, Refusal] = {
    **REFUSED,
    "reasoning": (({}, {"effort": None}, {"effort": "none"}, {"effort": None, "summary": None}), ""),
    "background": ((False,), "stream"),
    "truncation": (("disabled",), "input"),
    "conversation": ((), "input"),
    "previous_response_id": ((), "input"),
    "prompt": ((), "input"),
    "max_tool_calls": ((), ""),
    "messages": ((), "input"),
    "max_tokens": ((), "max_output_tokens"),
    "max_completion_tokens": ((), "max_output_tokens"),
    "response_format": ((), "text.format"),
    "logprobs": ((False,), "include"),
    "n": ((1,), ""),
    "echo": ((False,), ""),
    "add_generation_prompt": ((True,), ""),
    "continue_final_message": ((False,), ""),
    "context_management": (([],), "input"),
    "stream_options": (({"include_obfuscation": False}, {"include_obfuscation": True}), ""),
}
for _name in ("input", "instructions", "max_output_tokens", "text"):
    del RESPONSES_REFUSED[_name]

#: A name this close to a known one was meant to be it.
_CLOSE = 0.82
#: Names that a header and a line of the log may hold, and letters of each.
_MOST_NAMES, _MOST_LETTERS = 20, 64


def rows(path: str, read: Collection[str], refused: Mapping[str, Refusal]) -> list[dict[str, Any]]:
    """The table of one path.

    Args:
        path: Of the path's requests.
        read: Names of what is honoured there.
        refused: What is refused there.
    """
    honoured = [_row(path, name, "honoured", "see docs/serving.md") for name in read]
    refusals = [
        {**_row(path, name, "refused", _fix(near)), "asks_for_nothing": list(nothing)}
        for name, (nothing, near) in refused.items()
    ]
    inside = [
        _row(path, f"{place}.{name}", "refused", _fix(near))
        for place in ("messages[]", "messages[].content[]")
        for name, (_, near) in REFUSED_INSIDE.items()
    ]
    harmless = [_row(path, name, "harmless", why) for name, why in HARMLESS.items()]
    return honoured + refusals + (inside if "messages" in read else []) + harmless


def _row(path: str, name: str, becomes: Literal["honoured", "refused", "harmless"], why: str) -> dict[str, Any]:
    return {"path": path, "name": name, "is": becomes, "why": why}


def names_of(record: type) -> list[str]:
    """Names that a struct is read by."""
    return [field.encode_name for field in msgspec.structs.fields(record)]


def refuse(data: Mapping[str, Any], refused: Mapping[str, Refusal], where: str = "") -> None:
    """Refuse options that would change the answer.

    Args:
        data: What holds them.
        refused: What is refused there.
        where: Its place, for errors.

    Raises:
        ApiError: It asks for one of them.
    """
    unused = [of for of, how in (("tools", "tool_choice"), ("functions", "function_call")) if data.get(how) == "none"]
    for name, sent in data.items():
        nothing, near = refused.get(name, ((), ""))
        value = None if name in unused or name not in refused else sent
        if value is not None and not any(value == one and type(value) is type(one) for one in nothing):
            raise unsupported(f"{where}{name}", near)


def unsupported(name: str, near: str = "") -> ApiError:
    """An option that would change the answer, and that nobody here can honour; ``near`` is the nearest of ours."""
    return bad_request(
        f"{name} is not supported by this server: {_fix(near)}", param=name, code="unsupported_parameter"
    )


def _fix(near: str) -> str:
    return f"leave it out, or see {near}" if near else "leave it out"


def unknown(data: Mapping[str, Any], known: Collection[str], strict: bool, where: str = "") -> list[str]:
    """Names of fields that nobody here has heard of; null is as good as absent.

    Args:
        data: What holds them.
        known: Names of fields that are read, refused or harmless there.
        strict: Refuse all of them.
        where: Its place, for errors.

    Raises:
        ApiError: One is close to a known name, or ``strict``.
    """
    names = [name for name, value in data.items() if value is not None and name not in known]
    for name in names:
        shown, close = printable(name), difflib.get_close_matches(name[:_MOST_LETTERS], known, n=1, cutoff=_CLOSE)
        if close or strict:
            hint = f"did you mean {close[0]}?" if close else "this server is strict (--strict), see GET /v1/fields"
            raise bad_request(f"there is no field {shown}; {hint}", param=f"{where}{shown}", code="unknown_parameter")
    return [f"{where}{printable(name)}" for name in names[:_MOST_NAMES]]


def unknown_inside(messages: Any, known: Mapping[str | None, Collection[str]], strict: bool) -> list[str]:
    """The same of messages (``known[None]``) and of their parts by type, which are refused what they are refused.

    Raises:
        ApiError: See ``refuse`` and ``unknown``.
    """
    names: dict[str, None] = {}
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        places = [(message, None, f"messages[{index}]."), *(
            (part, part.get("type"), f"messages[{index}].content[{number}].")
            for number, part in enumerate(parts)
            if isinstance(part, dict)
        )]  # fmt: skip
        for data, kind, where in places:
            if not isinstance(kind, str | None) or kind not in known:
                continue
            refuse(data, {name: how for name, how in REFUSED_INSIDE.items() if name not in known[kind]}, where)
            if len(names) < _MOST_NAMES:
                names |= dict.fromkeys(unknown(data, known[kind], strict, where))
    return list(names)


def printable(name: str) -> str:
    """A name as it can stand in a header."""
    return re.sub(r"[^A-Za-z0-9_.\[\]-]", "?", name[:_MOST_LETTERS])
