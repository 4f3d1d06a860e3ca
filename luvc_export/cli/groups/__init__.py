"""Groups of options: a frozen dataclass whose fields are options, and which a command takes as one parameter.

Several verbs take the same group, so an option has one name, one help and one meaning everywhere, and what it makes (a
part of a plan, cases to ask) is the group's method.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as typer reads it: in place of every parameter whose type is a group, the group's options.

    Defaults are those of the dataclass; a parameter's own default (an instance of the group) replaces them.
    """
    hints: dict[str, Any] = get_type_hints(command, include_extras=True)
    members: dict[str, list[str]] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group: Any = hints[parameter.name]
        if not isinstance(group, type) or not dataclasses.is_dataclass(group):
            flat.append(parameter.replace(annotation=group, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        own = get_type_hints(group, include_extras=True)
        names = [each.name for each in dataclasses.fields(group)]
        held: Any = group() if parameter.default is inspect.Parameter.empty else parameter.default
        members[parameter.name] = names
        flat += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(held, name), annotation=own[name])
            for name in names
        ]

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, names in members.items():
            values[name] = hints[name](**{each: values.pop(each) for each in names})
        command(**values)

    del called.__wrapped__  # typer would read its signature
    called.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in flat}
    return called
