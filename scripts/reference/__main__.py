"""Write the pages of `docs/reference/`, or with --check say which of them differ from the code.

usage: python -m reference [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from reference.api import api_page
from reference.causes import causes_page
from reference.commands import commands_page
from reference.documents import documents_page
from reference.events import events_page
from reference.files import files_page
from reference.markdown import Incomplete, page, table
from reference.settings import inventory_page, job_page

INDEX = {
    "commands.md": "every command, its arguments, options and exit codes",
    "json.md": "documents that commands print with `--json`, with every field",
    "api.md": "routes of `ugro serve`",
    "inventory.md": "keys of `inventory.yaml`",
    "job.md": "keys of `job.yaml`",
    "causes.md": "causes of failure and what to do about them",
    "events.md": "kinds of events in the timeline",
    "files.md": "the state directory and the folder on nodes",
}


def index_page() -> str:
    """Return the page that links the others."""
    more = "Use from scripts: [scripting.md](../scripting.md). How things work: [architecture.md](../architecture.md)."
    return page(
        "Reference", table(("page", "content"), ((f"[{name}]({name})", text) for name, text in INDEX.items())), more
    )


FOLDER = Path(__file__).parents[2] / "docs" / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "json.md": documents_page,
    "api.md": api_page,
    "inventory.md": inventory_page,
    "job.md": job_page,
    "causes.md": causes_page,
    "events.md": events_page,
    "files.md": files_page,
    "README.md": index_page,
}


def main(folder: Path, words: list[str]) -> int:
    """Write or compare the pages of a folder. Returns the exit code: 1 if one differs, 2 if one cannot be built."""
    try:
        built = {name: build() for name, build in PAGES.items()}
    except Incomplete as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    differ = sorted(name for name in built.keys() | there.keys() if built.get(name) != there.get(name))
    if words == ["--check"]:
        if differ:
            print(f"error: docs/reference differs from the code: {', '.join(differ)}", file=sys.stderr)
            print("next:  make docs", file=sys.stderr)
        return 1 if differ else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in differ:
        if name in built:
            (folder / name).write_text(built[name], encoding="utf-8")
        else:
            (folder / name).unlink()
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(FOLDER, sys.argv[1:]))
