"""``/tokenize`` and ``/detokenize``, as vLLM has them: a prompt's or a chat's tokens, and tokens' text."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from luvc_export.errors import LuvcError
from luvc_export.runtime.generation.detokenise import text_of
from luvc_export.serve.asking import Asker
from luvc_export.serve.http.api_errors import bad_request, explained
from luvc_export.serve.http.json_bodies import check_text, decoded, require
from luvc_export.serve.interfaces.completions import check_ids
from luvc_export.serve.interfaces.protocol import RefusalPart, TextPart, chat_request

_OF_CHATS = ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs", "model")


class TokenizeRequest(Struct):
    """A prompt as it is, or ``messages``, which are read as a chat's."""

    model: str | None = None
    prompt: str | None = None
    messages: Any = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Struct):
    """Tokens."""

    tokens: Annotated[list[Annotated[int, Meta(ge=0, le=2**31)]], Meta(max_length=2**20)]
    model: str | None = None


def tokenize(body: bytes, asker: Asker) -> bytes:
    """What is answered: ids, their count, and how many fit.

    Raises:
        ApiError: 404 for an unknown model, 400 for what is wrong, or cannot fit whatever its tokens.
    """
    data = decoded(body)
    asked = _read(data, TokenizeRequest)
    check_text(data)
    model = asker.models.find(asked.model)
    encoder, manifest = model.session.encoder, model.session.bundle.manifest
    if (asked.prompt is None) == (asked.messages is None):
        raise bad_request("give a prompt or messages", param="prompt", code="invalid_value")
    try:
        if asked.prompt is not None:
            encoder.check_length(len(asked.prompt))
            special = asked.add_special_tokens is not False
            ids = list(encoder.tokenizer.encode(asked.prompt, add_special_tokens=special).ids)
        else:
            chat = chat_request({name: data[name] for name in _OF_CHATS if name in data})
            for index, message in enumerate(chat.messages):
                parts = message.content if isinstance(message.content, list) else []
                for number, part in enumerate(parts):
                    if not isinstance(part, TextPart | RefusalPart):
                        where = f"messages[{index}].content[{number}]"
                        text = "tokens of a picture depend on the plan that is asked: leave it out"
                        raise bad_request(text, param=where, code="unsupported_parameter")
            ids = encoder.encode(asker.text(chat))
    except LuvcError as error:
        raise explained(error, "prompt" if asked.prompt is not None else "messages") from error
    answer: dict[str, Any] = {"count": len(ids), "max_model_len": manifest.decoder.context, "tokens": ids}
    if asked.return_token_strs:
        answer["token_strs"] = [encoder.tokenizer.id_to_token(token) for token in ids]
    return msgspec.json.encode(answer)


def detokenize(body: bytes, asker: Asker) -> bytes:
    """What is answered: the text, special tokens by their names.

    Raises:
        ApiError: 404 for an unknown model, 400 for what is wrong.
    """
    data = decoded(body)
    require(data, "tokens")
    asked = _read(data, DetokenizeRequest)
    session = asker.models.find(asked.model).session
    vocab = session.bundle.manifest.decoder.vocab
    check_ids(asked.tokens, "tokens", vocab)
    try:
        text = text_of(session.encoder.tokenizer, asked.tokens, special=True)
    except LuvcError as error:
        raise explained(error, "tokens") from error
    return msgspec.json.encode({"prompt": text})


def _read(data: dict[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert({name: value for name, value in data.items() if value is not None}, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        place = str(error).partition("`$.")[2].partition("`")[0] or None
        raise bad_request(str(error).partition(" - at")[0], param=place, code="invalid_value") from error
