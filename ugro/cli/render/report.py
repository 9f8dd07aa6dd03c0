"""Puts the report of a job into one file: the dashboard's parts, their scripts and styles, and the job's documents."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import posixpath
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

ENTRY = "app/report.js"
STYLES = ("vendor/uplot.css", "style/base.css", "style/parts.css", "style/pages.css")

_FROM = r'\s*from\s*"([^"]+)";?'
_IMPORT = re.compile(r"^import\s*(?:\{([^}]*)\}|(\w+))" + _FROM + "|" + r"(?<=[;}])import\{([^}]*)\}" + _FROM, re.M)
_PASSED_ON = re.compile(r"export\s*\{([^}]*)\}" + _FROM)
_NAMES = re.compile(r"export\s*\{([^}]*)\};?")
_DECLARED = re.compile(r"^export ((?:async )?(?:function|class|const|let) (\w+))", re.M)
_DEFAULT = re.compile(r"\bexport default ")


def report_page(title: str, documents: Mapping[str, Any]) -> str:
    """Return the page. It needs no server and no other file, and a browser runs no other script in it."""
    # In a script no text ends it: no `<` of a log or a name is left in the data.
    data = json.dumps(documents, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    code = bundle(ENTRY).replace("</script", "<\\/script").replace("<!--", "<\\!--")
    style = "\n".join(_read(name) for name in STYLES)
    policy = (
        f"default-src 'none'; script-src '{_digest(code)}'; style-src '{_digest(style)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
<div id="app"></div>
<script type="application/json" id="report-data">{data}</script>
<script type="module">{code}</script>
</body>
</html>
"""


def bundle(entry: str) -> str:
    """Return a module and all that it imports as one script: a page in a file can import nothing."""
    ordered = dict[str, str]()
    _visit(entry, ordered)
    return "const modules = {};\n" + "\n".join(ordered.values())


def _visit(name: str, ordered: dict[str, str]) -> None:
    if name in ordered:
        return
    code = _read(name)
    exported = list[str]()

    def place(target: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))

    def imported(found: re.Match[str]) -> str:
        names, default, target, more, of = found.groups()
        wanted = f"{{{_renamed(names or more or '')}}}" if default is None else f"{{default: {default}}}"
        _visit(place(target or of), ordered)
        return f'const {wanted} = modules["{place(target or of)}"];'

    def passed_on(found: re.Match[str]) -> str:
        _visit(place(found[2]), ordered)
        exported.extend(_exports(found[1], f'modules["{place(found[2])}"].'))
        return ""

    def named(found: re.Match[str]) -> str:
        exported.extend(_exports(found[1], ""))
        return ""

    def declared(found: re.Match[str]) -> str:
        exported.append(found[2])
        return found[1]

    code = _PASSED_ON.sub(passed_on, code)
    code = _IMPORT.sub(imported, code)
    code = _NAMES.sub(named, code)
    code = _DECLARED.sub(declared, code)
    code = _DEFAULT.sub("out.default = ", code)
    ends = f"Object.assign(out, {{{', '.join(exported)}}});"
    ordered[name] = f'(() => {{\nconst out = modules["{name}"] = {{}};\n{code}\n{ends}\n}})();'


def _parts(names: str) -> list[tuple[str, str]]:
    """The names of an import or export: what each is there, and here."""
    words = [part.split(" as ") for part in re.sub(r"\s+", " ", names).split(",") if part.strip()]
    return [(word[0].strip(), word[-1].strip()) for word in words]


def _renamed(names: str) -> str:
    return ", ".join(there if there == here else f"{there}: {here}" for there, here in _parts(names))


def _exports(names: str, of: str) -> list[str]:
    return [f"{outside}: {of}{inside}" for inside, outside in _parts(names)]


def _read(name: str) -> str:
    return files("ugro").joinpath("dashboard", "static", *name.split("/")).read_text(encoding="utf-8").strip()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
