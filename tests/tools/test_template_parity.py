"""Our chat templates against Jinja2 itself, set up as Hugging Face's apply_chat_template sets it up.

Needs the build's engine_template_main (RUNG_BUILD, else ./build) and python3-jinja2."""
import datetime
import json
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")
jinja2 = pytest.importorskip("jinja2")
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

ROOT = Path(__file__).resolve().parents[2]
HELPER = Path(os.environ.get("RUNG_BUILD", ROOT / "build")) / "tests" / "engine_template_main"
TEMPLATES = sorted((ROOT / "tests" / "data" / "templates").glob("*.jinja"))
BOS, EOS = "<s>", "</s>"


class Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %}: its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class Raised(Exception):
    pass


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise Raised(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


ENV = environment()


def message_dict(m):
    """What the engine makes of one message: a field that is not there is left out, calls carry objects."""
    out = {"role": m["role"], "content": m.get("content")}
    if m.get("tool_calls") and not m.get("content"):
        out["content"] = None
    for key in ("reasoning_content", "name", "tool_call_id"):
        if m.get(key) is not None:
            out[key] = m[key]
    if m.get("tool_calls"):
        out["tool_calls"] = json.loads(json.dumps(m["tool_calls"]))
        for call in out["tool_calls"]:
            function = call.get("function", call)
            if isinstance(function.get("arguments"), str) and function["arguments"].startswith("{"):
                function["arguments"] = json.loads(function["arguments"])
    return out


def expected(source, messages, tools, generate):
    try:
        return 0, ENV.from_string(source).render(
            messages=[message_dict(m) for m in messages], tools=tools, documents=None, add_generation_prompt=generate,
            bos_token=BOS, eos_token=EOS)
    except Raised as e:
        return 1, str(e)
    except Exception as e:  # whatever else Jinja or Python says
        return 2, "%s: %s" % (type(e).__name__, e)


def field(text):
    if text is None:
        return struct.pack("<i", -1)
    data = text.encode()
    return struct.pack("<i", len(data)) + data


def render_all(requests):
    data = b""
    for source, messages, tools, generate in requests:
        data += field(source) + field(json.dumps(tools) if tools is not None else None) + field("1" if generate else "0")
        data += field(BOS) + field(EOS) + field(str(len(messages)))
        for m in messages:
            calls = m.get("tool_calls")
            data += field(m["role"]) + field(m.get("content")) + field(m.get("reasoning_content")) + field(m.get("name"))
            data += field(m.get("tool_call_id")) + field(json.dumps(calls) if calls else None)
    out = subprocess.run([HELPER], input=data, stdout=subprocess.PIPE, check=True).stdout
    results, at = [], 0
    while at < len(out):
        code, length = struct.unpack_from("<ii", out, at)
        results.append((code, out[at + 8:at + 8 + length].decode()))
        at += 8 + length
    assert len(results) == len(requests)
    return results


def check(requests):
    failures = []
    for request, (code, text) in zip(requests, render_all(requests)):
        want_code, want = expected(*request)
        if want_code == 0 and "cannot be sliced" in text:
            continue  # Jinja gives undefined where it works this out while compiling, and fails where it cannot
        same = code == 0 and text == want if want_code == 0 else code != 0 and (want_code == 2 or text == want)
        if not same:
            failures.append("template %r\nmessages %r\njinja %d %r\n ours %d %r" % (
                request[0] if len(request[0]) < 300 else request[0][:80], request[1], want_code, want, code, text))
    assert not failures, "%d of %d differ; the first:\n%s" % (len(failures), len(requests), "\n---\n".join(failures[:3]))


TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather\nof a place", "parameters": {
        "type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "a \"town\" & <more>, é 北京"},
            "days": {"type": "integer", "default": 3, "minimum": 0.5},
            "tags": {"type": "array", "items": {"type": "string"}},
            "at": {"type": "object", "properties": {"lat": {"type": "number"}, "grid": {"type": "array"}}}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}, "required": []}}},
]
CALL = {"id": "abcdefghi", "type": "function", "function": {
    "name": "weather", "arguments": "{\"place\": \"Zürich\", \"days\": 2, \"deep\": {\"a\": [1, 2.5, null, true]}}"}}
CALL2 = {"id": "123456789", "type": "function", "function": {"name": "now", "arguments": {}}}

CHATS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "  padded \n"}, {"role": "assistant", "content": " yes \n"}, {"role": "user", "content": ""}],
    [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "2+2?"}],
    [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
     {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e 😀\t\"'\\"}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "assistant", "content": "first"}, {"role": "user", "content": "then"}],
    [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\nhm\n\n</think>\n\nA</think>B"}, {"role": "user", "content": "r"}],
    [{"role": "user", "content": "q"}, {"role": "assistant", "content": "A", "reasoning_content": "\nbecause\n"}],
    [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
     {"role": "tool", "content": "{\"t\": 3}", "tool_call_id": "abcdefghi", "name": "weather"}],
    [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL2]},
     {"role": "tool", "content": "rain", "tool_call_id": "abcdefghi"}, {"role": "tool", "content": "12:00", "tool_call_id": "123456789"},
     {"role": "assistant", "content": "Rain at noon."}, {"role": "user", "content": "<tool_response>x</tool_response>"}],
    [{"role": "narrator", "content": "Once"}, {"role": "user", "content": "x"}],
    [{"role": "system", "content": "only"}],
]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_family_templates(path):
    source = path.read_text()
    check([(source, chat, tools, generate) for chat in CHATS for tools in (None, TOOLS, TOOLS[:1]) for generate in (True, False)])


# One feature a line, each rendered over one chat with tools.
SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 0.1 + 0.2 }} {{ 1_000 }}
{{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ none == none }} {{ '1' == 1 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x', none] ~ {'k': 'v', "q'": "w"} ~ (1,) ~ () ~ (1, 2) }}
{{ 'it\'s' ~ "a \"b\"" ~ '\n\t\\ \x41 é \u00e9 \U0001F600 \q \101' }} {{ ['it\'s', "say \"x\"", 'both \' "', 'n\n'] }}
{{ 'abc'[0] }}{{ 'abc'[-1] }}{{ 'abc'[5] }}{{ 'héllo'[1:3] }}{{ 'héllo'[::-1] }}{{ 'abcdef'[::2] }}{{ 'abcdef'[-2:] }}{{ 'abcdef'[:-2] }}{{ 'abcdef'[4:1:-1] }}{{ 'abc'[5:] }}{{ 'abc'[-9:2] }}
{{ [1,2,3,4][1:] }}{{ [1,2,3,4][::-1] }}{{ [1,2,3,4][-1] }}{{ [1,2][7] is defined }}{{ (1,2,3)[1:] }}{{ [1,2,3][-9:-1] }}{{ [1,2,3][9::-1] }}{{ [3,2,1][0:-1:1] }}
{{ messages[0].role }} {{ messages[0]['role'] }} {{ messages[0].nothing is defined }} {{ messages[0].get('x') }} {{ messages[0].get('x', 'y') }} {{ messages[-1]['content'] }}
{% for k, v in {'a': 1, 'b': [2]}.items() %}{{ k }}={{ v }};{% endfor %} {{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }} {{ {'b': 1, 'a': 2} | dictsort }} {{ {'a': 1} | items | list }}
{% for x in [1, 2, 3] if x != 2 %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% else %}none{% endfor %} {% for x in [] %}x{% else %}empty{% endfor %} {% for c in 'héy' %}{{ c }},{% endfor %} {% for k in {'p': 1, 'q': 2} %}{{ k }}{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %} {{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }} {% if true %}{% set x = 9 %}{% endif %}{{ x }} {% for i in [1, 2] %}{{ y is defined }}{% set y = 1 %}{% endfor %}{{ y is defined }}
{% set ns = namespace(n=0, s='') %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.none is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% for a, b in [(1, 2), [3, 4]] %}{{ a + b }},{% endfor %} {% set c = 1, 2 %}{{ c }} {% for (p, q) in [[1, 2]] %}{{ p }}{{ q }}{% endfor %}
{% macro m(a, b='B', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(c=3, a=1) }}{{ m() }}{{ m('x') | upper }}{{ m(b=m(1)) | length }}
{% macro f(n) %}{{ n if n < 2 else f(n - 1) | int + f(n - 2) | int }}{% endmacro %}{{ f(9) }}
{% set out %}a {{ 1 + 1 }}{% for i in [1] %}{{ i }}{% endfor %}{% endset %}{{ out }}{{ out | length }}{% set up | upper %}abc{% endset %}{{ up }}{% filter upper %}x{{ 'y' }}{% endfilter %}{% filter replace('a', 'b') | trim %} aaa {% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}{% generation %}G{{ 1 }}{% endgeneration %}{% raw %}{{ not }} {% this %}{% endraw %}{# no #}
{{ '  x y ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ ' a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xya'.lstrip('yx') }}|{{ 'axy'.rstrip('yx') }}|{{ '  a'.lstrip() }}|{{ 'a  '.rstrip() }}|{{ '　é　' | trim }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b c '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ ' a b  c d '.split(none, 2) }} {{ 'abc'.split('x') }} {{ ''.split(',') }} {{ ''.split() }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a\nb\r\nc\n'.splitlines() }}
{{ 'hello world'.title() }} {{ "it's a-b c(d" | title }} {{ "it's a" .title() }} {{ 'HELLO wOrld' | capitalize }} {{ 'hello'.capitalize() }} {{ 'aBc'.upper() }} {{ 'aBc' | lower }} {{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abc'.startswith('') }}
{{ 'aXbXc'.replace('X', '-') }} {{ 'aXbXc' | replace('X', '') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'abc'.replace('', '-') }} {{ 'aaa' | replace('a', 'b', 1) }} {{ 'abcabc'.find('c') }} {{ 'abc'.find('z') }} {{ 'banana'.count('an') }} {{ 'éa'.find('a') }}
{{ [1, 2, 3] | join(', ') }} {{ ['a', none, true] | join }} {{ messages | map(attribute='role') | join('|') }} {{ ', '.join(['x', 'y']) }} {{ messages | join(',', attribute='role') }} {{ 'abc' | join('-') }}
{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }} {{ [3, 1, 2] | sort(reverse=true) }} {{ messages | sort(attribute='role') | map(attribute='role') | list }} {{ [1, 1, 2, 'a', 'A'] | unique | list }} {{ [1, 2, 3] | reverse | list }} {{ 'abc' | reverse }}
{{ [1, 2, 3] | first }} {{ [1, 2, 3] | last }} {{ 'xyz' | first }} {{ [] | first is defined }} {{ [1, 2, 3] | sum }} {{ [1, 2.5] | sum }} {{ [3, 1] | min }} {{ [3, 1] | max }} {{ -3 | abs }} {{ 2.567 | round(1) }} {{ 2.5 | round }} {{ 7 | round }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | list }} {{ messages | selectattr('tool_calls') | list | length }} {{ messages | selectattr('tool_calls', 'defined') | list | length }} {{ [1, 2, 3, 4] | select('even') | list }} {{ [1, 2, 3] | reject('in', [2]) | list }} {{ [0, 1, '', 'a'] | select | list }} {{ ['a', 'b'] | map('upper') | list }} {{ tools | map(attribute='function.name') | list }} {{ [{'a': 1}, {}] | map(attribute='a', default='z') | list }} {{ messages | selectattr('role', 'in', ['user', 'tool']) | list | length }}
{{ nothing | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ none | default('d') }} {{ none | default('d', boolean=true) }} {{ x.y | default('z') if x is defined else 'no x' }} {{ nothing | d(5) }} {{ nothing | default }}
{{ '12' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '3.7' | int }} {{ '2.5' | float }} {{ 'q' | float }} {{ 3 | float }} {{ 5 | string + '!' }} {{ 'é' | length }} {{ [1, 2] | count }} {{ {'a': 1} | length }} {{ true | int }} {{ ' 42 ' | int }}
{{ {'a': 1, 'b': [1, 2.0, none, true, 'é"\\\n\u0001'], 'c': {}, 'd': []} | tojson }} {{ [] | tojson }} {{ 'x' | tojson }} {{ {'a': [1, {'b': 2}], 'e': {}, 'l': []} | tojson(indent=2) }} {{ 1.0 | tojson }} {{ none | tojson }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ {1: 2, none: 3, true: 4} | tojson }} {{ 1e20 | tojson }} {{ 1e-5 }} {{ 123456789012345.0 }} {{ 1e16 }} {{ 1.25 | tojson(indent=4) }}
{{ tools | tojson }} {{ tools[0] | tojson(indent=4) }} {{ messages | tojson }}
{{ 'a' in 'abc' }} {{ 'z' not in 'abc' }} {{ 1 in [1, 2] }} {{ 'a' in {'a': 1} }} {{ not 1 in [2] }} {{ 'role' in messages[0] }} {{ '' in 'abc' }} {{ 'x' in nothing }} {{ none in [none] }}
{{ 1 if true }} {{ 1 if false }} {{ 1 if false else 2 }} {{ 1 if false else 2 if false else 3 }} {{ ('a' if true else 'b') ~ 'c' }} {{ 'x' if nothing else 'y' }} {{ (none or 'z') ~ (0 and 1) ~ (1 and 2) ~ (not 0) }}
{{ nothing is defined }} {{ nothing is undefined }} {{ none is none }} {{ 'a' is string }} {{ 1 is number }} {{ true is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ {} is mapping }} {{ [] is sequence }} {{ 'a' is sequence }} {{ {} is sequence }} {{ {} is iterable }} {{ 1 is iterable }} {{ nothing is iterable }} {{ 4 is even }} {{ 3 is odd }} {{ 9 is divisibleby 3 }} {{ 1 is eq 1 }} {{ 2 is in [1, 2] }} {{ 'a' is not string }} {{ 5 is gt 3 }} {{ none is not none and true }} {{ 'a' is lower }} {{ 'A' is upper }} {{ range is callable }}
{{ true and not false }} {{ True }} {{ False }} {{ None }} {{ not none is none }} {{ -1 | abs }} {{ -(1) }} {{ +1 }} {{ 1 - -1 }} {{ 2 * 3 ~ 4 }} {{ 1 ~ 2 + 3 if false else 'p' }}
{{ 'a' * 3 }} {{ 3 * 'ab' }} {{ [1] * 2 }} {{ 'a' * 0 }} {{ 'a' + 'b' ~ 'c' }} {{ [1] + [2] }} {{ 'one' 'two' }} {{ (1, 2) + (3,) }}
{{ 'line1\nline2\n\nline4' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(1, blank=true) }}|{{ 'a\nb' | indent('>') }} {{ '<a href="x">&\'' | escape }} {{ '<b>' | safe }} {{ '<b>' | e }}
{{ messages[0].items() | list | length }} {{ {'items': 3}['items'] }} {{ {'a': {'b': 2}}.a.b }} {{ {'a': [1, 2]}.a.1 }} {{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ {'a': 1}.copy() }} {{ [1, 2, 1].count(1) }} {{ [4, 5].index(5) }}
{{ nothing.x }}
{{ nothing['x'] }}
{{ nothing() }}
{{ 'a' + 1 }}
{{ none + 'a' }}
{{ 1 < 'a' }}
{{ 1 / 0 }}
{{ [1, 2] | tojson + nothing }}
{{ nothing | tojson }}
{{ raise_exception('why ' ~ 1) }}
{{ messages[0].content.nothing.x }}
{{ 1 | length }}
{% for x in 5 %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% set messages.x = 1 %}
{{ [1, 2].append(3) }}
{{ {'a': 1}.update({'b': 2}) }}
{{ 'a' | nofilter }}
{{ 'a' is notest }}
{% if %}x{% endif %}
{% if true %}x
{{ 1 + }}
{{ (1 }}
{% endfor %}
{{ 'abc }}
{% nonsense %}
{{ 1 2 }}
{% for x in %}{% endfor %}
{# open
{% break %}
{{ messages[0 }}
{{ strftime_now('%Y-%m-%d') }} {{ strftime_now("%d %b %Y") }}
a{%- if true -%}  b  {%- endif -%}c {{- 'd' -}}  e
""".strip("\n").split("\n")

# White space around tags.
SPACES = [
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  {{ 1 }}\n  b\n", "{% if true %}\n\n x\n{% endif %}\n\n", "  {% if true %} x {% endif %}  \n y",
    "a  {%- if true %}\n b {%- endif %}\n", "a\n  {%+ if true %}\n b{% endif %}", "a\n {% if true +%}\n b{% endif %}", "{# c #}\n x\n  {# d #}  \n y",
    "a\n\t {#- c -#} \n b", "x {{- ' y ' -}} z", "\r\n{% if true %}\r\na\r\n{% endif %}\rb\r\n", "{{ 'a' }}\n  {% set x = 1 %}\n  {{ x }}\n",
    "{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\nend", "{%- for i in [1,2] -%}\n  {{ i }}\n{%- endfor -%}\nend", "a {% if true %} {% endif %} b", "  {% if true %}{% endif %}{% if true %}\n{% endif %}x",
    "{{ 1 }}  {% if true %}\n{% endif %}", "\n\n{% if true %}x{% endif %}\n\n", "{% raw %}\n  {{ x }}\n{% endraw %}\ny", "  {% raw -%}  a  {%- endraw %}  b", "\u00a0 {% if true %}x{% endif %}", "a\u3000{%- if true %}x{% endif %}",
    "{{ {'a': {'b': 1}} }}", "{{ '}}' }}{{ \"%}\" }}{% if '%}' %}x{% endif %}", "{ { } } {%", "{", "a{b}c{ {", "{{", "{%", "", "\n", "x\n", "x\n\n", "{{'{%'}}",
]


def test_snippets():
    check([(s, CHATS[9], TOOLS, True) for s in SNIPPETS])


def test_white_space():
    check([(s, CHATS[0], None, True) for s in SPACES])


def test_random_expressions():
    """Expressions put together at random: the same text, or a failure of both."""
    rng = random.Random(int(os.environ.get("RUNG_SEED", "7")))
    atoms = ["1", "0", "-2", "2.5", "'ab'", "'中 b'", "''", "true", "none", "[1, 2, 3]", "['b', 'a']", "{'a': 1}", "nothing", "messages[0].role",
             "messages | length", "(1, 2)", "x"]
    binary = ["+", "-", "*", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or", "//", "/"]
    post = ["| length", "| string", "| upper", "| list", "| first", "| last", "| trim", "| default('d')", "| join('-')", "| tojson", "| int", "| reverse | list",
            "[0]", "[-1]", "[1:]", "[::-1]", ".a", "['a']", "is string", "is defined", "is none", "is mapping", "is iterable", "is number", "is not string",
            ".upper()", ".split(' ')", ".strip()", ".get('a')", "| sort", "| unique | list", "| replace('a', 'b')"]

    def expression(depth):
        kind = rng.random()
        if depth == 0 or kind < 0.2:
            return rng.choice(atoms)
        if kind < 0.5:
            return "(%s %s %s)" % (expression(depth - 1), rng.choice(binary), expression(depth - 1))
        if kind < 0.85:
            return "(%s %s)" % (expression(depth - 1), rng.choice(post))
        if kind < 0.92:
            return "(%s if %s else %s)" % (expression(depth - 1), expression(depth - 1), expression(depth - 1))
        return "(not %s)" % expression(depth - 1)

    sources = ["{%% set x = %s %%}{{ %s }}" % (rng.choice(atoms[:-1]), expression(3)) for _ in range(1000)]
    check([(s, CHATS[3], TOOLS, True) for s in sources])
