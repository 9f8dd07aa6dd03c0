"""Checks the Python that runs on nodes, in `ugro/nodes/remote/**/on_node/`.

A node may have Python 3.8 and nothing else: the syntax is that of 3.8, no type is evaluated that 3.8 cannot evaluate,
and only the standard library is imported (and torch, by what measures it). What several scripts share is put in front
of each, so no name may be defined twice in one bundle.

usage: PYTHONPATH=scripts python -m check_on_node
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ugro.nodes.remote.bundle import FUTURE, SHARED

OLDEST = (3, 8)
NEWER_MODULES = {"tomllib", "zoneinfo", "graphlib"}
"""Of the standard library, but younger than OLDEST."""
LIBRARIES = {"torch"}
MOST_LINES = 400
GENERICS = {"list", "dict", "tuple", "set", "frozenset", "type"}
"""Builtin types that take no `[…]` before Python 3.9."""
TYPES = GENERICS | {"int", "str", "bytes", "float", "bool", "complex", "object"}
REMOTE = Path(__file__).parents[1] / "ugro/nodes/remote"


def main() -> int:
    """Print what is wrong, a line each. Returns the exit code."""
    paths = [path for path in REMOTE.rglob("on_node/*.py") if path.name != "__init__.py"]
    found = problems({path.relative_to(REMOTE).as_posix(): path.read_text(encoding="utf-8") for path in paths})
    for problem in found:
        print(f"ugro/nodes/remote/{problem}", file=sys.stderr)
    return 1 if found else 0


def problems(texts: Mapping[str, str]) -> list[str]:
    """What is wrong with scripts, given by their paths below `ugro/nodes/remote`, as `PATH:LINE: PROBLEM`."""
    found: list[str] = []
    trees: dict[str, ast.Module] = {}
    for path, text in sorted(texts.items()):
        try:
            trees[path] = ast.parse(text, feature_version=OLDEST)
        except SyntaxError as error:
            found.append(f"{path}:{error.lineno}: not Python {'.'.join(map(str, OLDEST))}: {error.msg}")
            continue
        if FUTURE not in text:
            found.append(f"{path}:1: `{FUTURE.strip()}` is missing: annotations would be evaluated")
        if (lines := text.count("\n")) > MOST_LINES:
            found.append(f"{path}:{lines}: has more than {MOST_LINES} lines")
        found += (f"{path}:{line}: {problem}" for line, problem in [*_imports(text, trees[path]), *_types(trees[path])])
    for path in trees:
        found += _bundle(path, texts, trees)
    return found


def _imports(text: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports of what a node may not have."""
    shared = {f"ugro.nodes.remote.{name}" for name in SHARED.findall(text)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif not isinstance(node, ast.ImportFrom):
            continue
        else:
            names = [node.module or "."]
            if node.module in shared and any(alias.asname for alias in node.names):
                yield node.lineno, "what is sent in front has no other name: import it without `as`"
        for name in names:
            top = name.partition(".")[0]
            known = (top in sys.stdlib_module_names and top not in NEWER_MODULES) or top in LIBRARIES
            if not known and name not in shared:
                yield node.lineno, f"a node may have no {name}"


def _types(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Types that Python 3.8 cannot evaluate. Annotations are not evaluated, by the `__future__` import."""
    classes = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ("typing", "__future__")
        for alias in node.names
        if _is_class_name(alias.name)
    }
    for node in _evaluated(tree):
        match node:
            case ast.Subscript(value=value, lineno=line):
                wrong = _takes_no_parameters(value, classes)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right, lineno=line):
                wrong = _is_type(left) or _is_type(right)
            case _:
                continue
        if wrong:
            yield line, f"Python 3.8 cannot evaluate `{ast.unparse(node)}`"


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below a node but annotations."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _evaluated(child)


def _takes_no_parameters(node: ast.expr, classes: set[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in GENERICS or name in classes
        case ast.Attribute(attr=name):
            return _is_class_name(name)
        case _:
            return False


def _is_type(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=None):
            return True
        case ast.Name(id=name):
            return name in TYPES or _is_class_name(name)
        case ast.Attribute(attr=name):
            return _is_class_name(name)
        case ast.Subscript(value=value):
            return _is_type(value)
        case _:
            return False


def _is_class_name(name: str) -> bool:
    """Whether a name is written as a class: `Popen`, and not O_CREAT or `environ`."""
    return name[:1].isupper() and not name.isupper()


def _bundle(path: str, texts: Mapping[str, str], trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """What is in the way of sending a script with what it imports."""
    owners: dict[str, str] = {}
    for part in _parts(path, texts):
        if part not in trees:
            yield f"{path}:1: {part} cannot be sent along"
            continue
        for line, name in _defined(trees[part]):
            if name == "main" and part != path:
                yield f"{part}:{line}: has a `main`, and {path} imports from it: it would run twice"
            elif (owner := owners.setdefault(name, part)) != part:
                yield f"{part}:{line}: defines `{name}`, as does {owner}, with which it is sent"


def _parts(path: str, texts: Mapping[str, str]) -> list[str]:
    """A script and all that it imports from, directly or not."""
    found, todo = [path], [path]
    while todo:
        for name in SHARED.findall(texts.get(todo.pop(), "")):
            if (part := name.replace(".", "/") + ".py") not in found:
                found.append(part)
                todo.append(part)
    return found


def _defined(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The names that a module defines at its top, without those that it imports."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.Assign(targets=targets):
                yield from ((node.lineno, part.id) for part in targets if isinstance(part, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield node.lineno, name
            case _:
                pass


if __name__ == "__main__":
    sys.exit(main())
