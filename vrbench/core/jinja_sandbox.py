"""Untrusted jinja templates (of task files), rendered in a sandbox: no code runs, time and size are bounded.

`ImmutableSandboxedEnvironment` denies access to names that begin with an underscore. Two things are added: methods of
anything but plain values are refused too, since an item's image has a `save` that writes files; and loops, repeated
texts and widths are bounded, so that a template can neither run forever nor fill the memory.
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

MAX_SECONDS = 2.0
"""Processor time of one rendering; a prompt takes less than a millisecond."""

MAX_LENGTH = 10_000_000
"""Characters of one rendering, and entries of a list in it."""

MAX_INTEGER_BITS = 10_000

PLAIN_MODULES = ("builtins", "datetime", "decimal", "uuid", "markupsafe", "jinja2.runtime", "jinja2.utils")
"""Modules of the types whose methods a template may call."""

WIDTH_FUNCTIONS = (
    "ljust", "rjust", "center", "zfill", "expandtabs", "to_bytes", "indent", "wordwrap", "tojson", "batch", "slice",
)  # fmt: skip
"""Methods and filters with an argument for the width of the result."""

_OPTIONS = ("undefined", "keep_trailing_newline", "trim_blocks", "lstrip_blocks", "newline_sequence", "autoescape")

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))
_written: ContextVar[list[int]] = ContextVar("written")


class _BoundedTemplate(Template):
    """A template that sets deadline and length counter for each rendering."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        deadline, written = _deadline.set(time.thread_time() + MAX_SECONDS), _written.set([0])
        try:
            return super().render(*args, **kwargs)
        except (RecursionError, MemoryError) as error:
            raise SecurityError("the template needs too much memory, or calls itself endlessly") from error
        finally:
            _deadline.reset(deadline)
            _written.reset(written)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for untrusted templates; each is compiled once."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    template_class = _BoundedTemplate

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_count_output, **options)
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.filters |= {"bounded_loop": _bounded_loop, "bounded_concat": _bounded_concat}
        self.globals.pop("lipsum", None)  # random text of any length
        self._compiled = lru_cache(maxsize=256)(super().from_string)

    def from_string(self, source: Any, globals: Any = None, template_class: Any = None) -> Template:
        """Return the compiled template."""
        if globals is None and template_class is None and isinstance(source, str):
            return self._compiled(source)
        return super().from_string(source, globals, template_class)

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Allow templates another filter."""
        self.filters[name] = _bounded(name, function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _AddBounds().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may use an attribute: no Python internals, and only methods of plain values."""
        plain = type(obj).__module__ in PLAIN_MODULES and not isinstance(obj, ModuleType)
        return super().is_safe_attribute(obj, attr, value) and (plain or not callable(value))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method, macro or function, with arguments and result bounded."""
        name = getattr(obj, "__name__", "")
        _check_growth(name, (getattr(obj, "__self__", None), *args), kwargs)
        return _check_size(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute with two values, unless the result would be too large."""
        _check_time()
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)


def sandbox_like(like: Environment) -> Sandbox:
    """Return a sandbox that renders what an environment renders, its own filters included."""
    sandbox = Sandbox(**{name: getattr(like, name) for name in _OPTIONS})
    for name, function in like.filters.items():
        if name not in sandbox.filters:
            sandbox.add_filter(name, function)
    return sandbox


@lru_cache(maxsize=1)
def item_sandbox() -> Sandbox:
    """Return the sandbox for keys of items and for validation, with the harnesses' filter."""

    def regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
        return re.sub(pattern, repl, string, count=count)

    sandbox = Sandbox(undefined=StrictUndefined)
    sandbox.add_filter("regex_replace", regex_replace)
    return sandbox


def validate_template(text: str) -> str:
    """Return why a template is refused before it is rendered: not jinja, or access to internals; empty if it is not."""
    try:
        tree = item_sandbox().parse(text)
        if any(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))):
            return "it includes or extends another template, and a task file has one only"
        for node in tree.find_all((nodes.Getattr, nodes.Filter)):
            name = _attribute_name(node)
            if isinstance(name, str) and name.startswith("__"):
                return f"it uses {name!r}; a template may use the columns, jinja's filters and methods of plain values"
        item_sandbox().from_string(text)
    except TemplateSyntaxError as error:
        return f"it cannot be read as a jinja template: {error}"
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError):
        return "it is nested too deep, or too large, for a template"
    return ""


def _attribute_name(node: nodes.Node) -> Any:
    """Return the attribute that a node reads, as `.name` or by the filter `attr`; None if it reads none."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    first = node.args[0] if isinstance(node, nodes.Filter) and node.name == "attr" and node.args else None
    return first.value if isinstance(first, nodes.Const) else None


class _AddBounds(NodeTransformer):
    """Lets every loop check the time, and every `~` the size of its result."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "bounded_loop", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        texts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(texts, "bounded_concat", [], [], None, None, lineno=node.lineno)


@pass_context  # so that jinja does not evaluate it while it compiles
def _bounded_loop(context: Any, entries: Iterable[Any]) -> Iterator[Any]:
    for entry in entries:
        _check_time()
        yield entry


def _bounded_concat(values: list[Any]) -> str:
    texts = [str(value) for value in values]
    _check_length(sum(map(len, texts)))
    return "".join(texts)


def _check_time() -> None:
    if time.thread_time() > _deadline.get():
        raise SecurityError(f"the template takes longer than {MAX_SECONDS:g} seconds")


def _count_output(value: Any) -> Any:
    """Add a value to the output's length, that of blocks kept in variables included."""
    written = _written.get(None)
    if written is not None and isinstance(value, str):
        written[0] += len(value)
        _check_length(written[0])
    return value


def _check_size(value: Any) -> Any:
    _check_time()
    if isinstance(value, str | bytes | list | tuple):
        _check_length(len(value))
    return value


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise SecurityError(f"the template makes a text or list of more than {MAX_LENGTH:,} characters or entries")


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter in checks of the time and of the size of its result."""

    @wraps(function)  # with the attributes by which jinja knows what to pass to it
    def filtered(*args: Any, **kwargs: Any) -> Any:
        texts = args[1:] if hasattr(function, "jinja_pass_arg") else args
        _check_growth(name, texts, kwargs)
        return _check_size(function(*args, **kwargs))

    return filtered


def _check_growth(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a call whose result would be too large, before it is made."""
    given = (*args, *kwargs.values())
    size = 0
    if name in WIDTH_FUNCTIONS:
        size = max((abs(arg) for arg in given[1:] if isinstance(arg, int)), default=0)
    elif name == "format" and isinstance(given[0], str):
        size = _max_width(given[0])
    elif name == "replace" and len(given) > 2 and all(isinstance(arg, str) for arg in given[:3]):
        size = given[0].count(given[1]) * len(given[2])
    elif name == "join" and len(given) > 1:
        separators = [arg for arg in given[:2] if isinstance(arg, str)]
        entries = [len(arg) for arg in given[:2] if hasattr(arg, "__len__")]
        size = len(separators[-1] if separators else "") * max(entries, default=0)
    _check_length(size)


def _check_operands(operator: str, left: Any, right: Any) -> None:
    sizes = [len(value) for value in (left, right) if isinstance(value, str | bytes | list | tuple)]
    whole = [int(value) for value in (left, right) if isinstance(value, int)]
    if operator == "%" and isinstance(left, str):
        sizes, whole = [_max_width(left)], []
    if operator == "*" and len(sizes) == len(whole) == 1:
        sizes, whole = [sizes[0] * whole[0]], []
    _check_length(sum(sizes))
    if len(whole) == 2:
        bits = whole[0].bit_length() * abs(whole[1]) if operator == "**" else sum(n.bit_length() for n in whole)
        if bits > MAX_INTEGER_BITS:
            raise SecurityError("the template computes with too large a number")


def _max_width(form: str) -> int:
    """Return the largest number in a format, such as the width in '%9d'; a computed width counts as too large."""
    computed = re.search(r"%[-+ #0]*\*|%[-+ #\d]*\.\*|\{[^{}]*\{", form)
    return MAX_LENGTH + 1 if computed else max(map(int, re.findall(r"\d{1,12}", form)), default=0)
