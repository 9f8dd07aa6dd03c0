"""What stands in the source of a class and cannot be asked of it."""

from __future__ import annotations

import ast
import inspect


def texts_below(kind: type) -> dict[str, str]:
    """Return the text below each attribute of a class, on one line, by the attribute's name; empty: it has none."""
    (found,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body
    assert isinstance(found, ast.ClassDef)
    texts = {}
    for member, below in zip(found.body, [*found.body[1:], None], strict=True):
        target = member.targets[0] if isinstance(member, ast.Assign) else getattr(member, "target", None)
        if isinstance(target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            texts[target.id] = " ".join(str(text).split())
    return texts
