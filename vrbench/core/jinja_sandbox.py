"""Jinja templates from outside (task files), rendered in a sandbox: no code runs, and time and size have an end.

`ImmutableSandboxedEnvironment` keeps a template from what begins with an underscore. Two things are added to it:
methods of anything but plain values are refused too, since an image of an item has a `save` that writes files; and
loops, repeated texts and widths are bounded, so that a template cannot keep a machine busy or fill its memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import lru_cache, wraps
from types import ModuleType
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

SECONDS = 2.0
"""Processor time that one rendering may take; a prompt takes less than a millisecond."""

LONGEST = 10_000_000
"""Characters that one rendering may give, and entries of a list in it."""

LARGEST_BITS = 10_000
"""Size of a whole number."""

PLAIN = ("builtins", "datetime", "decimal", "uuid", "markupsafe", "jinja2.runtime", "jinja2.utils")
"""Modules of the types whose methods a template may call."""

WIDTHS = (
    "ljust", "rjust", "center", "zfill", "expandtabs", "to_bytes", "indent", "wordwrap", "tojson", "batch", "slice",
)  # fmt: skip
"""Methods and filters that are told how wide the result is."""

_OPTIONS = ("undefined", "keep_trailing_newline", "trim_blocks", "lstrip_blocks", "newline_sequence", "autoescape")

_end: ContextVar[float] = ContextVar("end", default=float("inf"))
_given: ContextVar[list[int]] = ContextVar("given")


class _Template(Template):
    """A template whose every rendering starts with the whole of its time and size."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        end, given = _end.set(time.thread_time() + SECONDS), _given.set([0])
        try:
            return super().render(*args, **kwargs)
        except (RecursionError, MemoryError) as error:
            raise SecurityError("the template needs too much memory, or calls itself without end") from error
        finally:
            _end.reset(end)
            _given.reset(given)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for templates that nobody here wrote; each is compiled once."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    template_class = _Template

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_counted, **options)
        self.filters = {name: _bounded(name, one) for name, one in self.filters.items()}
        self.filters |= {"entries_in_time": _entries_in_time, "one_text": _one_text}
        self.globals.pop("lipsum", None)  # text at random, of any length
        self._compiled = lru_cache(maxsize=256)(super().from_string)

    def from_string(self, source: Any, globals: Any = None, template_class: Any = None) -> Template:
        """The compiled template."""
        if globals is None and template_class is None and isinstance(source, str):
            return self._compiled(source)
        return super().from_string(source, globals, template_class)

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Let templates use another filter."""
        self.filters[name] = _bounded(name, function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may have an attribute: none of Python's inside, and no method of an image or the like."""
        plain = type(obj).__module__ in PLAIN and not isinstance(obj, ModuleType)
        return super().is_safe_attribute(obj, attr, value) and (plain or not callable(value))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method, macro or function of the template."""
        name = getattr(obj, "__name__", "")
        _check_growth(name, (getattr(obj, "__self__", None), *args), kwargs)
        return _sized(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute with two values, unless the result would be too large."""
        _in_time()
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)


def sandbox_like(like: Environment) -> Sandbox:
    """A sandbox that renders what an environment renders, its own filters included."""
    made = Sandbox(**{name: getattr(like, name) for name in _OPTIONS})
    for name, function in like.filters.items():
        if name not in made.filters:
            made.add_filter(name, function)
    return made


@lru_cache(maxsize=1)
def item_sandbox() -> Sandbox:
    """The sandbox for keys of items, and for looking at templates; it knows the harnesses' filter."""
    made = Sandbox(undefined=StrictUndefined)
    made.add_filter("regex_replace", lambda string, pattern, repl, count=0: re.sub(pattern, repl, string, count=count))
    return made


def validate_template(text: str) -> str:
    """What makes a template unusable before it is rendered: not jinja, or a reach for Python; empty if nothing does."""
    try:
        tree = item_sandbox().parse(text)
        for node in tree.find_all((nodes.Getattr, nodes.Filter, nodes.Include, nodes.Import, nodes.FromImport)):
            reached = _reached(node)
            if reached:
                return reached
        if tree.find(nodes.Extends):
            return "it extends another template, and a task file has one only"
        item_sandbox().from_string(text)
    except TemplateSyntaxError as error:
        return f"it cannot be read as a jinja template: {error}"
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError):
        return "it is nested too deep, or too large, to be a template"
    return ""


def _reached(node: nodes.Node) -> str:
    """What a node wants that no template may have; empty if it may."""
    name: Any = ""
    if isinstance(node, nodes.Getattr):
        name = node.attr
    elif isinstance(node, nodes.Filter):
        first = node.args[0] if node.name == "attr" and node.args else None
        name = first.value if isinstance(first, nodes.Const) else ""
    else:
        return "it includes another template, and a task file has one only"
    if isinstance(name, str) and name.startswith("__"):
        return f"it reaches for {name!r}; a template may use the columns, jinja's filters and methods of plain values"
    return ""


class _Bounds(NodeTransformer):
    """Lets every loop look at the time, and every `~` at the size of what it makes."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "entries_in_time", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        texts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(texts, "one_text", [], [], None, None, lineno=node.lineno)


@pass_context  # so that jinja does not compute it while it compiles
def _entries_in_time(context: Any, entries: Iterable[Any]) -> Iterator[Any]:
    for entry in entries:
        _in_time()
        yield entry


def _one_text(values: list[Any]) -> str:
    texts = [str(value) for value in values]
    if sum(map(len, texts)) > LONGEST:
        raise _too_large()
    return "".join(texts)


def _in_time() -> None:
    if time.thread_time() > _end.get():
        raise SecurityError(f"the template takes longer than {SECONDS:g} seconds")


def _counted(value: Any) -> Any:
    """What is put out, and counted: into blocks that are kept in variables as well."""
    given = _given.get(None)
    if given is not None and isinstance(value, str):
        given[0] += len(value)
        if given[0] > LONGEST:
            raise _too_large()
    return value


def _sized(value: Any) -> Any:
    _in_time()
    if isinstance(value, str | bytes | list | tuple) and len(value) > LONGEST:
        raise _too_large()
    return value


def _too_large() -> SecurityError:
    return SecurityError(f"the template makes a text or list of more than {LONGEST:,} characters or entries")


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at the time and at the size of what it makes."""

    @wraps(function)  # with the marks by which jinja knows what to pass to it
    def filtered(*args: Any, **kwargs: Any) -> Any:
        texts = args[1:] if hasattr(function, "jinja_pass_arg") else args
        _check_growth(name, texts, kwargs)
        return _sized(function(*args, **kwargs))

    return filtered


def _check_growth(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what would make more of its arguments than fits, before it is made."""
    given = (*args, *kwargs.values())
    size = 0
    if name in WIDTHS:
        size = max((abs(one) for one in given[1:] if isinstance(one, int)), default=0)
    elif name == "format" and isinstance(given[0], str):
        size = _widest(given[0])
    elif name == "replace" and len(given) > 2 and all(isinstance(one, str) for one in given[:3]):
        size = given[0].count(given[1]) * len(given[2])
    elif name == "join" and len(given) > 1:
        separators = [one for one in given[:2] if isinstance(one, str)]
        entries = [len(one) for one in given[:2] if hasattr(one, "__len__")]
        size = len(separators[-1] if separators else "") * max(entries, default=0)
    if size > LONGEST:
        raise _too_large()


def _check_operands(operator: str, left: Any, right: Any) -> None:
    sizes = [len(one) for one in (left, right) if isinstance(one, str | bytes | list | tuple)]
    whole = [int(one) for one in (left, right) if isinstance(one, int)]
    if operator == "%" and isinstance(left, str):
        sizes, whole = [_widest(left)], []
    if operator == "*" and len(sizes) == len(whole) == 1:
        sizes, whole = [sizes[0] * whole[0]], []
    if sum(sizes) > LONGEST:
        raise _too_large()
    if len(whole) == 2:
        bits = whole[0].bit_length() * abs(whole[1]) if operator == "**" else sum(n.bit_length() for n in whole)
        if bits > LARGEST_BITS:
            raise SecurityError("the template computes with too large a number")


def _widest(form: str) -> int:
    """The largest number in a format, such as the width in '%9d'; a width that is computed counts as too large."""
    computed = re.search(r"%[-+ #0]*\*|%[-+ #\d]*\.\*|\{[^{}]*\{", form)
    return LONGEST + 1 if computed else max(map(int, re.findall(r"\d{1,12}", form)), default=0)
