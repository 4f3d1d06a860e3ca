"""A chat template rendered: what a helper process does (``confined.child``), so without anything that loads slowly.

Templates come with checkpoints and are untrusted. They are rendered in jinja's sandbox with transformers' settings, and
limits that end a template which runs away: attributes that lead to Python's internals are refused (jinja's immutable
sandbox), loop passes and calls are counted, and no operation may make a string or list beyond a limit.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

#: Characters of a rendered prompt, and of any string or items of any list made on the way. A context of 262,144
#: tokens holds about one million characters.
SIZE_LIMIT = 4_000_000

#: Loop passes and calls of one rendering; long conversations with tools need some ten thousand.
STEP_LIMIT = 300_000

_WIDTH = re.compile(r"\d{6,}")  # '%999999999d' and '{:>999999999}' make huge strings out of short ones
_SIZED = ("center", "indent", "wordwrap", "format", "truncate", "batch", "slice")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template. ``reset`` before each rendering."""

    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def __init__(self, step_limit: int = STEP_LIMIT, size_limit: int = SIZE_LIMIT) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.step_limit, self.size_limit, self.steps = step_limit, size_limit, 0
        self.globals.pop("lipsum")
        self.globals.update(
            raise_exception=_raise, strftime_now=_now, dict=_Dict(), namespace=_SafeNamespace, range=self._range
        )
        self.filters.update({name: self._sized(self.filters[name]) for name in _SIZED})
        self.filters["tojson"] = _tojson

    def reset(self) -> None:
        """Start the count of steps again."""
        self.steps = 0

    def compile_template(self, source: str) -> jinja2.Template:
        """Compile ``source`` with every loop counted and every ``~`` limited."""
        tree = self.parse(source)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _call("count_passes", cast(nodes.Expr, loop.iter))
        for concat in list(tree.find_all(nodes.Concat)):
            concat.nodes = [_call("limited", nodes.Concat(concat.nodes))]
        return self.from_string(tree)

    def count_passes(self, items: Iterable[Any] | Undefined) -> list[Any]:
        """Charge a loop's passes before it starts (a list keeps ``loop.length`` working)."""
        listed = []
        for item in items:
            self._step()
            listed.append(item)
        return listed

    def limited(self, value: Any) -> Any:
        """Return ``value`` unless it is a string or list beyond the limit."""
        if isinstance(value, str | list | tuple) and len(value) > self.size_limit:
            raise SecurityError(f"the template makes a value of {len(value):,} characters or items")
        return value

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Count each call, and check the sizes that go into one and come out."""
        self._step()
        if isinstance(getattr(obj, "__self__", None), str):
            self._check_arguments(obj.__self__, args, kwargs)
        return self.limited(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse a product, power or ``%`` format that would be huge."""
        sized = (left, right) if isinstance(right, str | list | tuple) else (right, left)
        if operator == "*" and isinstance(sized[1], str | list | tuple) and isinstance(sized[0], int):
            self._check_count(sized[0] * len(sized[1]))
        elif operator in ("**", "*") and isinstance(left, int) and isinstance(right, int):
            self._check_count(left.bit_length() * (right if operator == "**" else 1))
        elif operator == "%" and isinstance(left, str):
            self._check_arguments(left, (right,), {})
        return self.limited(super().call_binop(context, operator, left, right))

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Refuse at once, where jinja would wait until the value is used."""
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe.")

    def _range(self, *bounds: int) -> range:
        result = range(*bounds)
        self._check_count(len(result))
        return result

    def _step(self) -> None:
        self.steps += 1
        if self.steps > self.step_limit:
            raise SecurityError(f"the template takes more than {self.step_limit:,} steps")

    def _check_count(self, count: int) -> None:
        if count > self.size_limit:
            raise SecurityError(f"the template asks for a value of {count:,} characters or items")

    def _check_arguments(self, text: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> None:
        if isinstance(text, str) and _WIDTH.search(text) and ("%" in text or "{" in text):
            raise SecurityError("the template formats with a very large width")
        for value in (*args, *kwargs.values()):
            if isinstance(value, int):
                self._check_count(abs(value))

    def _sized(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            for value in args:
                self._check_arguments(value, args, kwargs)
            return self.limited(function(*args, **kwargs))

        wrapped.__dict__.update(function.__dict__)  # keeps jinja's pass_environment mark
        return wrapped


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant said, for training; here its body is just rendered."""

    tags = frozenset(("generation",))  # type: ignore[assignment]

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(lineno)


class _Dict:
    """``dict(...)`` without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _SafeNamespace(Namespace):
    """``namespace(...)`` that cannot hold names Python gives a meaning."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args  # as jinja's own: a template may use ``self`` as a keyword
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"the template stores the private name {name!r} on a namespace")


def _call(method: str, argument: nodes.Expr) -> nodes.Expr:
    """Call a method of the environment; as no name is involved, a template cannot replace it."""
    call = nodes.Call(nodes.EnvironmentAttribute(method), [argument], [], None, None)
    return cast(nodes.Expr, call.set_lineno(argument.lineno))


def _raise(message: str) -> Iterator[str]:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers: jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


#: Templates kept compiled.
_KEPT = 8
_compiled: OrderedDict[str, tuple[Sandbox, jinja2.Template]] = OrderedDict()


def task(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Render ``source`` with ``values``: the text as UTF-8 (lone halves of characters kept), or what went wrong.

    Without ``values`` it is parsed alone.
    """
    reply = render(request["source"], request.get("values"))
    return (reply, b"") if "what" in reply else ({}, reply["text"].encode("utf-8", "surrogatepass"))


def render(source: str, values: dict[str, Any] | None) -> dict[str, str]:
    """``text``; or ``what`` went wrong and what was ``got``."""
    try:
        sandbox, template = _compile(source)
        if values is None:
            return {"text": ""}
        sandbox.reset()
        pieces, size = [], 0
        for piece in template.generate(values):
            pieces.append(piece)
            size += len(piece)
            if size > sandbox.size_limit:
                return _wrong("the chat template does not end", f"more than {sandbox.size_limit:,} characters")
        return {"text": "".join(pieces)}
    except jinja2.exceptions.SecurityError as error:
        return _wrong("the chat template does something it must not", error)
    except jinja2.TemplateSyntaxError as error:
        return _wrong("the chat template cannot be parsed", f"line {error.lineno}: {error.message}")
    except jinja2.TemplateError as error:
        return _wrong("the chat template refuses these messages", error)
    except RecursionError:
        return _wrong("the chat template does not end", "RecursionError")
    except MemoryError:
        raise
    except Exception as error:  # a template is a program: it can raise whatever Python can
        return _wrong("the chat template fails", f"{type(error).__name__}: {error}")


def _compile(source: str) -> tuple[Sandbox, jinja2.Template]:
    if source not in _compiled:
        sandbox = Sandbox()
        _compiled[source] = sandbox, sandbox.compile_template(source)
        while len(_compiled) > _KEPT:
            _compiled.popitem(last=False)
    return _compiled[source]


def _wrong(what: str, got: object) -> dict[str, str]:
    return {"what": what, "got": str(got)[:1000]}
