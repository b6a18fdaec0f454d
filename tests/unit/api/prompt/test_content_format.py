import pytest
from chat_templates import READS_PARTS, TEMPLATES

from headrace_api.prompt.template import ChatTemplate


def format_of(source: str) -> str:
    return ChatTemplate(source, {}).content_format


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_in_the_style_of_a_known_model_is_read_right(name: str) -> None:
    assert format_of(TEMPLATES[name]) == ("openai" if name in READS_PARTS else "string")


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% for p in m['content'] %}{{ p }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
        "{% for p in messages[0].content %}{{ p }}{% endfor %}",
        "{% for p in (messages | first).content %}{{ p }}{% endfor %}",
        "{% for p in messages[1:][0]['content'] %}{{ p }}{% endfor %}",
        "{% for m in messages %}{% set c = m.content %}{% for p in c %}{{ p }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% set c = m.content %}{% set d = c %}{% for p in d %}{{ p }}{% endfor %}{% endfor %}",
        "{% set rest = messages[1:] %}{% for m in rest %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
        "{% set all = messages if x else messages[1:] %}{% for m in all %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.m = messages %}{% for m in ns.m %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
        "{% for m in messages | selectattr('role', 'equalto', 'user') | list %}{% for p in m.content %}{{ p }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for p in m.content | selectattr('type', 'equalto', 'text') %}{{ p.text }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for p in m.content or [] %}{{ p }}{% endfor %}{% endfor %}",
        "{% macro show(c) %}{% for p in c %}{{ p }}{% endfor %}{% endmacro %}{% for m in messages %}{{ show(m.content) }}{% endfor %}",
        "{% macro show(x, c=none) %}{% for p in c %}{{ p }}{% endfor %}{% endmacro %}{% for m in messages %}{{ show(1, c=m.content) }}{% endfor %}",
        "{% macro show(m) %}{% for p in m.content %}{{ p }}{% endfor %}{% endmacro %}{% for m in messages %}{{ show(m) }}{% endfor %}",
        "{% macro a(c) %}{% for p in c %}{{ p }}{% endfor %}{% endmacro %}{% macro b(d) %}{{ a(d) }}{% endmacro %}{% for m in messages %}{{ b(m.content) }}{% endfor %}",
        "{% for m in messages %}{% generation %}{% for p in m.content %}{{ p }}{% endfor %}{% endgeneration %}{% endfor %}",
    ],
)
def test_a_loop_over_content_is_found_wherever_the_content_went(source: str) -> None:
    assert format_of(source) == "openai"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% for call in m.tool_calls %}{{ call }}{% endfor %}{% endfor %}",
        "{% for d in documents %}{% for p in d.content %}{{ p }}{% endfor %}{% endfor %}",
        "{% for t in tools %}{% for p in t['content'] %}{{ p }}{% endfor %}{% endfor %}",
        "{% macro show(c) %}{% for p in c %}{{ p }}{% endfor %}{% endmacro %}{% for m in messages %}{{ show(m.tool_calls) }}{% endfor %}",
        "{% for i in range(messages | length) %}{{ messages[i].content }}{% endfor %}",
        "{% for line in content %}{{ line }}{% endfor %}",
    ],
)
def test_a_loop_over_anything_else_is_not_mistaken_for_one(source: str) -> None:
    assert format_of(source) == "string"
