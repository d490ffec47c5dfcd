"""Templates from outside: what they may not do, and that what they may do is what the harnesses' own give."""

from __future__ import annotations

import re
from typing import Any

import pytest
from jinja2 import BaseLoader, Environment, StrictUndefined
from jinja2.exceptions import SecurityError
from PIL import Image

from vrbench.core import jinja_sandbox

PLAIN = Environment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
PLAIN.filters["regex_replace"] = lambda string, pattern, repl, count=0: re.sub(pattern, repl, string, count=count)
SANDBOX = jinja_sandbox.sandbox_like(PLAIN)

ROW = {
    "q": " What is\tit? ", "choices": ["a", "bb", "<c>"], "n": 7, "x": 0.5, "none": None,
    "nested": {"text": ["x", "y"], "label": {"deep": "z"}}, "items": [{"k": 2}, {"k": 1}],
}  # fmt: skip

SAME = [
    "{{q}}", "{{q.strip()}}\n", "{{q.split() | join('_')}} ", "{{'%02d' % n}}", "{{'{:>5}'.format(n)}}",
    "{{n * 3 + 1}}",
    "{{'ab' * 3}}", "{{choices + ['d']}}", "{{q ~ n ~ none ~ x}}", "{{nested.text[1]}}{{nested.label.deep}}",
    "{% for c in choices %}{{'ABC'[loop.index0]}}. {{c}}{{loop.last}}{{loop.length}}{{loop.revindex}}\n{% endfor %}",
    "{% for c in choices if c != 'bb' %}{{loop.cycle('-', '+')}}{{c}}{% else %}none{% endfor %}", "{{n ** 2 // 3 % 5}}",
    "{% for k, v in nested.items() %}{{k}}={{v}};{% endfor %}{% for c in [] %}{% else %}nothing{% endfor %}",
    "{% set ns = namespace(t='') %}{% for c in choices %}{% set ns.t = ns.t ~ c %}{% endfor %}{{ns.t}}",
    "{% macro m(a, b=1) %}[{{a}}{{b}}]{% endmacro %}{{m(1)}}{{m(2, b=3)}}", "{{items | map(attribute='k') | list}}",
    "{{items | sort(attribute='k') | first}}", "{{q | regex_replace('\\s+', ' ')}}",
    "{{q | replace('t', 'T') | title}}",
    "{{choices | tojson}}", "{{choices | join(', ') | e}}", "{{q | indent(2)}}{{q | center(40)}}",
    "{{'%s' | format(n)}}",
    "{% set t %}a{{n}}{% endset %}{{t}}{{t | length}}", "{% if none is none and x < 1 %}yes{% endif %}  \n\n",
    "{% for i in range(3) %}{% for j in range(i) %}{{i}}{{j}} {% endfor %}{% endfor %}", "{{'abc' in q}} {{q[1:3]}}",
    "{{choices.index('bb')}}", "{% filter upper %}{{q}}{% endfilter %}", "plain text", "{{ 'x' if n == 7 else 'y' }}",
]  # fmt: skip

REACHES = [
    "{{ cycler.__init__.__globals__.os.system('id > PWNED') }}",
    "{{ ''['__class__'] }}",
    "{{ q|attr('__class__') }}",
    "{{ q|attr('__cla' ~ 'ss__') }}",
    "{{ '{0.__class__}'.format(q) }}",
    "{{ '{q.__init__}'.format_map({'q': q}) }}",
    "{{ ['__class__'] | map('attr', '__class__') | list }}{{ (q | attr('__doc__')) }}",
    "{{ [q] | map(attribute='__class__') | first }}",
    "{{ self._TemplateReference__context }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__['__builtins__'] }}",
    "{{ range.__class__.mro() }}",
    "{% macro m() %}{% endmacro %}{{ m.__call__.__func__ }}",
    "{{ choices.append('d') }}",
    "{{ nested.update({'a': 1}) }}",
    "{{ picture.save('PWNED') }}",
    "{{ picture.show() }}",
    "{% set save = picture.save %}{{ save('PWNED') }}",
    "{{ picture['tobytes']() }}",
    "{{ (picture | attr('save'))('PWNED') }}",
]

HEAVY = [
    "{{ 'a' * 10 ** 10 }}",
    "{{ (10 ** 4) ** (10 ** 9) }}",
    "{{ [0] * 1000000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ [1] | batch(1000000000, 'x') | list }}",
    "{% set t = 'a' * 1000000 %}{{ t.replace('a', t) }}",
    "{% set t = 'a' * 1000000 %}{{ t | replace('a', t) }}",
    "{% set t = 'a' * 1000000 %}{{ t.join(t) }}",
    "{% set ns = namespace(t='aaaa') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
    "{% set ns = namespace(t='aaaa') %}{% for i in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
    "{% set ns = namespace(t='aa') %}{% for i in range(60) %}{% set ns.t %}{{ns.t}}{{ns.t}}{% endset %}{% endfor %}",
    "{% macro m(n) %}{{ m(n - 1) }}{{ m(n - 1) }}{% endmacro %}{{ m(900) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
]


@pytest.mark.parametrize("text", SAME)
def test_a_sandbox_gives_what_the_environment_gives_that_it_stands_for(text: str) -> None:
    assert SANDBOX.from_string(text).render(**ROW) == PLAIN.from_string(text).render(**ROW)
    assert jinja_sandbox.validate_template(text) == ""


@pytest.mark.parametrize("text", REACHES)
def test_a_template_reaches_neither_python_nor_a_file(
    text: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {**ROW, "picture": Image.new("RGB", (2, 2))}
    with pytest.raises(SecurityError, match=r"^access to attribute '\w+' of '\w+' object is unsafe.$"):
        SANDBOX.from_string(text).render(**row)
    assert list(tmp_path.iterdir()) == []
    assert SANDBOX.from_string("{{picture.size}}").render(**row) == "(2, 2)"


@pytest.mark.parametrize("text", HEAVY)
def test_a_template_neither_fills_the_memory_nor_goes_on_for_ever(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_sandbox, "MAX_SECONDS", 0.05)
    with pytest.raises(SecurityError, match=r"^the template (makes|computes|takes|needs)"):
        SANDBOX.from_string(text).render(**ROW)


def test_a_rendering_begins_with_all_of_its_time_and_size() -> None:
    text = "{{ 'a' * 6000000 }}"
    assert [len(SANDBOX.from_string(text).render()) for _ in range(3)] == [6_000_000] * 3
    assert SANDBOX.from_string(text) is SANDBOX.from_string(text)  # compiled once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ x.__class__ }}", "it uses '__class__'; a template may use the columns"),
        ("{{ x | attr('__class__') }}", "it uses '__class__'"),
        ("{% include '/etc/passwd' %}", "it includes or extends another template"),
        ("{% import 'a' as a %}", "it includes or extends another template"),
        ("{% extends 'a' %}", "it includes or extends another template"),
        ("{{ x", "it cannot be read as a jinja template"),
        ("{{ x | nonsense }}", "No filter named 'nonsense'"),
        ("{{" + "(" * 5000 + "x" + ")" * 5000 + "}}", "it is nested too deep"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_rendered(text: str, said: str) -> None:
    assert said in jinja_sandbox.validate_template(text)
