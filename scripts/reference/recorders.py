"""Finds every kind of event that the code records, in the syntax trees of its modules.

A recorder is a function whose parameter becomes the `kind` of an `Event`, directly or through another recorder. What
calls pass there are kinds: a literal, one of two literals, the state in which a job ends, or the first value of the
pairs that a function yields. Anything else is refused, since no reader could look up the kind of such an event.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reference.markdown import Incomplete
from ugro.common.models.job import JobState

EVENT, KIND = "Event", "kind"
ENDS = frozenset(state.value for state in JobState if state.ended)

Functions = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Call:
    """A call of anything, the functions around it from the inside, and its file."""

    node: ast.Call
    around: tuple[Functions, ...]
    path: str

    @property
    def name(self) -> str:
        """What is called, without the object that it is called on."""
        called = self.node.func
        return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""

    def argument(self, position: int, name: str) -> ast.expr | None:
        """What is passed for a parameter, by its position without `self`, or by its name."""
        named = next((word.value for word in self.node.keywords if word.arg == name), None)
        return named or (self.node.args[position] if 0 <= position < len(self.node.args) else None)


def kinds(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the kinds of events that some modules (text by path) record, each with the paths that record it.

    Raises:
        Incomplete: a kind cannot be read from the code.
    """
    trees = {path: ast.parse(text) for path, text in sources.items()}
    calls = [call for path, tree in trees.items() for call in _calls(tree, (), path)]
    recorders = {EVENT: (-1, KIND)}
    found: dict[str, set[str]] = {}
    while True:
        before, found = len(recorders), {}
        for call in calls:
            if call.name not in recorders or (given := call.argument(*recorders[call.name])) is None:
                continue
            if forwarded := _parameter(given, call):
                recorders.setdefault(*forwarded)
                continue
            for kind in _read(given, call, trees):
                found.setdefault(kind, set()).add(call.path)
        if len(recorders) == before:
            return found


def sources(root: Path) -> dict[str, str]:
    """Return the text of every module below a folder, by its path there; what runs on nodes records no events."""
    paths = (path for path in sorted(root.rglob("*.py")) if "on_node" not in path.relative_to(root).parts)
    return {path.relative_to(root.parent).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def _calls(node: ast.AST, around: tuple[Functions, ...], path: str) -> Iterator[Call]:
    if isinstance(node, ast.Call):
        yield Call(node, around, path)
    inside = (node, *around) if isinstance(node, Functions) else around
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, inside, path)


def _parameter(given: ast.expr, call: Call) -> tuple[str, tuple[int, str]] | None:
    """The function around a call whose parameter is passed on as the kind: its name, and where the parameter stands."""
    if not isinstance(given, ast.Name):
        return None
    for function in call.around:
        names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
        if given.id in names:
            return function.name, (names.index(given.id) - (names[0] in ("self", "cls")), given.id)
    return None


def _read(given: ast.expr, call: Call, trees: Mapping[str, ast.Module]) -> Iterator[str]:
    if isinstance(given, ast.Constant) and isinstance(given.value, str):
        yield given.value
    elif isinstance(given, ast.IfExp):
        yield from _read(given.body, call, trees)
        yield from _read(given.orelse, call, trees)
    elif _is_end(given, call):
        yield from sorted(ENDS)
    elif isinstance(given, ast.Name) and (yielded := set(_from_loop(given.id, call, trees))):
        yield from sorted(yielded)
    else:
        raise Incomplete(
            f"{call.path}:{call.node.lineno}: the kind of this event cannot be read: write it as a literal, or teach "
            "scripts/reference/recorders.py"
        )


def _is_end(given: ast.expr, call: Call) -> bool:
    """Whether it is `state.value` of a parameter `state: JobState`: events named by a state are ends."""
    if not (isinstance(given, ast.Attribute) and given.attr == "value" and isinstance(given.value, ast.Name)):
        return False
    arguments = [one for function in call.around for one in function.args.args]
    kind = next((one.annotation for one in arguments if one.arg == given.value.id), None)
    return isinstance(kind, ast.Name) and kind.id == JobState.__name__


def _from_loop(name: str, call: Call, trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """The first values of the tuples that a function yields, where a loop over its result binds the name first."""
    for loop in (node for node in ast.walk(call.around[0]) if isinstance(node, ast.For)):
        if not (isinstance(loop.target, ast.Tuple) and isinstance(loop.iter, ast.Call)):
            continue
        first, source = loop.target.elts[0], Call(loop.iter, (), call.path).name
        if isinstance(first, ast.Name) and first.id == name:
            for tree in trees.values():
                for function in (one for one in ast.walk(tree) if isinstance(one, Functions) and one.name == source):
                    yield from _yielded(function)


def _yielded(function: Functions) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Yield | ast.YieldFrom) and node.value is not None:
            value = node.value.elt if isinstance(node.value, ast.GeneratorExp) else node.value
            if isinstance(value, ast.Tuple) and isinstance(value.elts[0], ast.Constant):
                yield str(value.elts[0].value)
