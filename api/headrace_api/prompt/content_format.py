"""Which form of message content a chat template reads: a string, or a list of parts."""

from typing import Literal

from jinja2 import nodes

ContentFormat = Literal["string", "openai"]

_Kind = Literal["messages", "message", "content"]
# Filters and methods that pick one message out of the list.
_PICKS_ONE = frozenset({"first", "last", "random", "min", "max"})


def detect_content_format(template: nodes.Template) -> ContentFormat:
    """``openai`` when some loop of the template runs over a message's content, else ``string``.

    Best effort: follows the content through assignments, namespaces, macro parameters and
    filters, by name and without regard to scope or order.
    """
    return "openai" if _ContentFlow(template).loops_over_content() else "string"


class _ContentFlow:
    """What each name of a template may stand for, found by repeating all assignments until nothing changes."""

    def __init__(self, template: nodes.Template) -> None:
        self._template = template
        self._kinds: dict[str, set[_Kind]] = {"messages": {"messages"}}
        self._macros = {macro.name: macro for macro in template.find_all(nodes.Macro)}
        size = -1
        while size != (size := sum(map(len, self._kinds.values()))):
            self._follow_once()

    def loops_over_content(self) -> bool:
        return any("content" in self._of(loop.iter) for loop in self._template.find_all(nodes.For))

    def _follow_once(self) -> None:
        for assignment in self._template.find_all(nodes.Assign):
            self._name(assignment.target, self._of(assignment.node))
        for loop in self._template.find_all(nodes.For):
            if "messages" in self._of(loop.iter):
                self._name(loop.target, {"message"})
        for call in self._template.find_all(nodes.Call):
            self._follow_call(call)

    def _follow_call(self, call: nodes.Call) -> None:
        if not isinstance(call.node, nodes.Name):
            return
        macro = self._macros.get(call.node.name)
        if macro is None:
            return
        for parameter, argument in zip(macro.args, call.args, strict=False):
            self._name(parameter, self._of(argument))
        named = {parameter.name: parameter for parameter in macro.args}
        for keyword in call.kwargs:
            if keyword.key in named:
                self._name(named[keyword.key], self._of(keyword.value))

    def _name(self, target: nodes.Node, kinds: set[_Kind]) -> None:
        name = _dotted(target)
        if name is not None and kinds:
            self._kinds.setdefault(name, set()).update(kinds)

    def _of(self, node: nodes.Node | None) -> set[_Kind]:
        """What an expression may stand for."""
        match node:
            case nodes.Name():
                return self._kinds.get(node.name, set())
            case nodes.Getattr(attr=attribute):
                return self._of_member(node, node.node, attribute)
            case nodes.Getitem(arg=nodes.Slice()):
                return self._of(node.node)
            case nodes.Getitem(arg=nodes.Const(value=str(key))):
                return self._of_member(node, node.node, key)
            case nodes.Getitem():
                return _picked(self._of(node.node))
            case nodes.Filter():
                return self._of_filter(node)
            case nodes.CondExpr():
                return self._of(node.expr1) | self._of(node.expr2)
            case nodes.And() | nodes.Or() | nodes.Add():
                return self._of(node.left) | self._of(node.right)
            case _:
                return set()

    def _of_member(self, node: nodes.Node, owner: nodes.Node, key: str) -> set[_Kind]:
        kinds = set(self._kinds.get(_dotted(node) or "", ()))
        owned = self._of(owner)
        if key == "content" and "message" in owned:
            kinds.add("content")
        return kinds

    def _of_filter(self, node: nodes.Filter) -> set[_Kind]:
        kinds = self._of(node.node)
        return _picked(kinds) if node.name in _PICKS_ONE else kinds


def _picked(kinds: set[_Kind]) -> set[_Kind]:
    return {"message"} if "messages" in kinds else set()


def _dotted(node: nodes.Node) -> str | None:
    """The name that an assignment or expression means: ``x``, or ``ns.x`` for an attribute of a plain name."""
    match node:
        case nodes.Name():
            return node.name
        case nodes.NSRef():
            return f"{node.name}.{node.attr}"
        case nodes.Getattr(node=nodes.Name(name=owner), attr=key):
            return f"{owner}.{key}"
        case nodes.Getitem(node=nodes.Name(name=owner), arg=nodes.Const(value=str(key))):
            return f"{owner}.{key}"
        case _:
            return None
