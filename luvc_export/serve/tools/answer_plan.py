"""How answers of a request are chosen and read: the sampler's options with a grammar's mask, and their shape.

Once a thought's budget of tokens is spent, the mark behind the thought is all that may follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import UsageError
from luvc_export.runtime.generation.grammar_trials import TOO_MUCH
from luvc_export.runtime.generation.guided import Grammars, MaskWork
from luvc_export.runtime.generation.logits import TokenMask
from luvc_export.runtime.generation.sampling import GUIDES, Sampling
from luvc_export.serve.http.api_errors import bad_request
from luvc_export.serve.interfaces.protocol import ChatRequest
from luvc_export.serve.tools.detection import TemplateForms, Thought
from luvc_export.serve.tools.fields import calls_of, for_template
from luvc_export.serve.tools.grammar import Calls, grammar
from luvc_export.serve.tools.splitting import AnswerShape


class ThoughtBudget:
    """Follows ``logits.TokenMask``.

    Args:
        most: Tokens of the thought.
        open_after: Given the answer's tokens, whether they end within a thought.
        end: Tokens of the mark behind it.
        vocab: Logits of a step.
        inner: What else holds the answer; None for nothing.
    """

    def __init__(
        self,
        most: int,
        open_after: Callable[[Sequence[int]], bool],
        end: Sequence[int],
        vocab: int,
        inner: TokenMask | None = None,
    ) -> None:
        self._most, self._open_after, self._end, self._vocab, self._inner = most, open_after, end, vocab, inner
        self._from: int | None = None
        self._over = False

    def __call__(self, answer: Sequence[int]) -> NDArray[np.bool_] | None:
        """See ``logits.TokenMask``."""
        inner = None if self._inner is None else self._inner(answer)
        if self._over or len(answer) < self._most:
            return inner
        if self._from is None:
            if not self._open_after(answer):
                self._over = True
                return inner
            if inner is not None and not inner[self._end[0]]:  # half a character stands there
                return inner
            self._from = len(answer)
        place = len(answer) - self._from
        if place >= len(self._end):
            self._over = True
            return inner
        only = np.zeros(self._vocab, np.bool_)
        only[self._end[place]] = True
        return only


@dataclass(frozen=True)
class AnswerPlan:
    """Of one request.

    Args:
        options: The sampler's.
        shape: What answers are made of; None where they are text.
        tools: What the template is given.
        values: The template's.
        unheld: Tools whose schemas no grammar could be made of.
    """

    options: Sampling
    shape: AnswerShape | None = None
    tools: tuple[dict[str, Any], ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    unheld: tuple[str, ...] = ()


def planned(
    chat: ChatRequest, options: Sampling, forms: TemplateForms, grammars: Grammars, work: MaskWork
) -> AnswerPlan:
    """The plan of a request.

    Args:
        chat: The request.
        options: The sampler's, with what answers are held to not compiled.
        forms: What the model's template writes.
        grammars: Compiles.
        work: What masks may take.

    Raises:
        ApiError: The tools are wrong, or the template takes none.
        UsageError: No grammar can be made of what answers are held to; ``where`` is ``tools`` for those.
        MachineError: See ``Grammars.guided``.
    """
    values = values_of(chat, forms)
    calls, named = calls_of(chat.tools or [], chat.tool_choice, chat.parallel_tool_calls)
    tools = offered(chat, forms)
    form = forms.calls if calls.mode != "none" else None
    thought = None if chat.continue_final_message else forms.thought
    opened = thought is not None and forms.opens_thought(values)
    if not opened and (values.get("enable_thinking") is False or chat.reasoning_effort == "none"):
        thought = None
    if form is None and thought is None:
        return AnswerPlan(grammars.guided(options, work), values=values)
    shape = AnswerShape(forms.ids(), form, thought, opened, calls.tools, named)
    held = next(((one, getattr(options, one)) for one in GUIDES if getattr(options, one) is not None), None)
    unheld: tuple[str, ...] = ()
    if form is not None or held is not None:
        if not (chat.max_completion_tokens or chat.max_tokens):
            options = replace(options, max_new_tokens=None)  # the makers' own length cuts no call
        options, unheld = _held(options, grammar(shape, calls, held), grammars, work, calls)
    if chat.thinking_token_budget is not None and thought is not None:
        options = _thinking_at_most(chat.thinking_token_budget, options, forms, thought, opened)
    return AnswerPlan(options, shape, tools, values, unheld)


def offered(chat: ChatRequest, forms: TemplateForms) -> tuple[dict[str, Any], ...]:
    """The tools that the template is given, marks in them broken; none where none may be called.

    Raises:
        ApiError: It takes none.
    """
    if not chat.tools or chat.tool_choice == "none":
        return ()
    if forms.calls is None:
        message = "this model's chat template takes no tools: serve with --chat-template FILE, one that writes them"
        raise bad_request(f"{message}, or leave tools out", param="tools", code="unsupported_parameter")
    return tuple(forms.encoder.broken(for_template(tool)) for tool in chat.tools)


def values_of(chat: ChatRequest, forms: TemplateForms) -> dict[str, Any]:
    """What the template is given: an effort by the name it has for that.

    Raises:
        ApiError: It has none.
    """
    values, effort = dict(chat.chat_template_kwargs or {}), chat.reasoning_effort
    if chat.add_generation_prompt is not None:
        values["add_generation_prompt"] = chat.add_generation_prompt
    if chat.thinking_token_budget is not None and forms.thought is None:
        message = "this model's chat template has no thought to bound: leave it out"
        raise bad_request(message, param="thinking_token_budget", code="unsupported_parameter")
    if effort is None:
        return values
    if forms.takes("reasoning_effort"):
        return {"reasoning_effort": effort, **values}
    if forms.takes("enable_thinking"):
        return {"enable_thinking": effort != "none", **values}
    if effort != "none" or forms.thought is not None:
        message = "this model's chat template has no effort to set: leave it out, or see chat_template_kwargs"
        raise bad_request(message, param="reasoning_effort", code="unsupported_parameter")
    return values


def _thinking_at_most(most: int, options: Sampling, forms: TemplateForms, thought: Thought, opened: bool) -> Sampling:
    """Options whose mask ends a thought of more than so many tokens, beside what it is already."""
    tokenizer, inner = forms.tokenizer, options.mask
    begin, end = (list(tokenizer.encode(mark, add_special_tokens=False).ids) for mark in thought[:2])

    def open_after(answer: Sequence[int]) -> bool:
        text = str(tokenizer.decode(list(answer), skip_special_tokens=False))
        return thought.end not in text and (opened or text.lstrip().startswith(thought.begin))

    spent = most if opened else most + len(begin)
    vocab = forms.vocab
    mask = lambda: ThoughtBudget(spent, open_after, end, vocab, inner() if inner else None)  # noqa: E731
    return replace(options, mask=mask)


def _held(
    options: Sampling, asked: dict[str, Any], grammars: Grammars, work: MaskWork, calls: Calls
) -> tuple[Sampling, tuple[str, ...]]:
    """Options with the mask; schemas that take too much work are given up where they may be."""
    try:
        return grammars.held(options, "tools", asked, work)
    except UsageError as error:
        freed = [{**one, "schema": one["schema"] if one["free"] is None else one["free"]} for one in asked["schemas"]]
        if error.what != TOO_MUCH or freed == asked["schemas"]:
            raise
        options, unheld = grammars.held(options, "tools", {**asked, "schemas": freed}, work)
        return options, tuple(dict.fromkeys((*(name for name, loose in calls.loose.items() if loose), *unheld)))
