"""Fields of requests that others know and this project does not honour, for every door: what each is refused with.

The server, rows of a batch, Triton's requests, Ray's columns and ``Session`` share these tables. What a door has under
another name, or not at all, is refused there by name with the nearest that it has.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from luvc_export.errors import UsageError

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

#: Of all paths.
_REFUSED = {**RESPONSES_REFUSED, **REFUSED}
#: What doors have under several names: the runtime's (``Session.generate`` and ``Sampling``) first, then the server's.
SAME: tuple[tuple[str, ...], ...] = (
    ("prompt", "messages", "input", "instructions"),
    ("image", "images"),
    ("adapter", "model", "lora", "lora_path"),
    ("image_tokens", "mm_processor_kwargs", "luvc"),
    ("chat_template_kwargs", "add_generation_prompt"),
    ("stream", "stream_options"),
    ("max_new_tokens", "max_tokens", "max_completion_tokens", "max_output_tokens"),
    ("min_new_tokens", "min_tokens"),
    ("json_schema", "guided_json", "response_format", "structured_outputs", "text"),
    ("regex", "guided_regex", "guided_choice"),
    ("grammar", "guided_grammar"),
    ("logprobs", "top_logprobs", "include"),
)
#: What the server alone has.
SERVED = ("n", "echo", "continue_final_message")
#: A name this close to a known one was meant to be it; of one that is refused anyway, one this close may have been.
_CLOSE, _NEAR = 0.82, 0.5
#: All names that some door knows.
KNOWN = frozenset({*_REFUSED, *HARMLESS, *SERVED, *(name for names in SAME for name in names)})


def asks(value: Any, nothing: Sequence[Any]) -> bool:
    """Whether ``value`` asks for something: it is no null, and none of the values that ask for nothing."""
    return value is not None and not any(value == one and type(value) is type(one) for one in nothing)


def meant(name: str, known: Collection[str]) -> str | None:
    """The known name that ``name`` is as good as a misspelling of."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE)), None)


def hint(name: str, own: Collection[str], beside: Mapping[str, str]) -> str:
    """What to do about a field that a door has not.

    Args:
        name: The field.
        own: Names that the door has.
        beside: What is not said there but beside it, by name, and where; an option that is said nowhere has no text.
    """
    for one in _nearest(name):
        if one in own:
            return f"leave it out, or see {one}"
        if beside.get(one):
            return f"leave it out, or see {one} of {beside[one]}"
    close = [] if name in KNOWN else difflib.get_close_matches(name, own, n=1, cutoff=_NEAR)
    return f"did you mean {close[0]}?" if close else "leave it out"


def check_fields(
    sent: Mapping[str, Any], own: Collection[str], what: str, where: str, beside: Mapping[str, str], exact: bool = False
) -> list[str]:
    """Refuse what would change an answer and is not honoured where it is sent; null is as good as absent.

    Args:
        sent: Fields and their values.
        own: Names that are read there.
        what: What has none of that name, for errors.
        where: Its place.
        beside: See ``hint``.
        exact: What is as good as misspelt passes.

    Returns:
        Names that nobody has heard of.

    Raises:
        UsageError: One is an option of another door, or as good as a misspelt one.
    """
    known, unheard = {*own, *beside, *KNOWN}, []
    for name, value in sent.items():
        if name in own or name in HARMLESS or not asks(value, _REFUSED.get(name, ((), ""))[0]):
            continue
        if name in known or (meant(name, known) and not exact):
            raise UsageError(f"{what} has no such option", where=where, got=name, fix=hint(name, own, beside))
        unheard.append(name)
    return unheard


def check_messages(messages: Sequence[Any]) -> None:
    """Refuse options inside of messages and their parts that would change the answer (``REFUSED_INSIDE``).

    Raises:
        UsageError: There is one.
    """
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        parts = content if isinstance(content, list | tuple) else ()
        inside = [(f"messages[{index}].content[{number}]", part) for number, part in enumerate(parts)]
        for where, data in [(f"messages[{index}]", message), *inside]:
            for name, (nothing, _) in REFUSED_INSIDE.items() if isinstance(data, Mapping) else ():
                if asks(data.get(name), nothing):
                    fix = hint(name, ("chat_template_kwargs", "image_tokens", "fps", "image"), {})
                    raise UsageError("this has no such option", where=where, got=name, fix=fix)


def _nearest(name: str) -> Iterator[str]:
    """Names of the same thing, and of what is nearest to it by the tables."""
    near = {**_REFUSED, **REFUSED_INSIDE}.get(name, ((), ""))[1]
    for one in (name, near):
        yield one
        for names in SAME:
            if one in names:
                yield from names
