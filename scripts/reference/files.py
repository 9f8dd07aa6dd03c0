"""files.md: the state directory and a node's folder, from `JobFiles`, `RunPaths` and the docstrings of both."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reference.markdown import block, code, docstring, first_paragraph, page, prose, table
from ugro.common.paths import JobFiles, RunPaths
from ugro.control_plane import metadata_store


def files_page() -> str:
    """Return the page of the files that UGRO keeps."""
    state = docstring(metadata_store).split("\n\n")
    tree = next(part for part in state if part.startswith("    "))
    after = state[state.index(tree) + 1 :]
    run = RunPaths(base_dir="~/.ugro", job="JOB", attempt=1, node_rank=0)
    files = inspect.getdoc(RunPaths.run_dir) or ""
    return page(
        "Files that UGRO keeps",
        "Their size and removal: [disk.md](../disk.md). Files that you write: [files.md](../files.md).",
        "## State directory",
        "On the master: `$UGRO_HOME`, default `~/.ugro`. JSON and JSON lines, readable with `cat` and `jq`.",
        block(textwrap.dedent(tree)),
        *(prose(" ".join(part.split())) for part in after),
        "### A job's folder",
        f"{code('$UGRO_HOME/jobs/JOB/')}; `N` is the number of an attempt.",
        table(("file", "content"), _job_files()),
        "## Node",
        "Below `base_dir` of the [inventory](inventory.md); nothing else of UGRO stays on a node.",
        table(("path", "content"), ((code(path), text) for path, text in _node_files(run).items())),
        "### One attempt on one node",
        *(prose(" ".join(part.split())) for part in files.split("\n\n")),
    )


def _node_files(run: RunPaths) -> dict[str, str]:
    return {
        f"{run.base_dir}/owner": "The master that runs this node",
        f"{run.base_dir}/storage-id": "One id on all nodes that share this folder",
        f"{run.job_dir}/uid": "The job's own id: a folder with another one is never touched",
        f"{run.job_dir}/code": "The code as of the submission or of `--new-code`, and what the job wrote into it",
        f"{run.job_dir}/code.sha256": "Digest of the code; with `code.json`, its list of files",
        f"{run.job_dir}/resume-ATTEMPT": "A checkpoint that was sent to this node for that attempt",
        run.run_dir.replace("/1/node-0", "/ATTEMPT/node-RANK"): "One attempt on one node, by its node rank",
    }


def _job_files() -> Iterator[tuple[str, str]]:
    """One row for each property of `JobFiles`, and each method that takes an attempt."""
    shown = JobFiles(Path("."))
    for name, member in vars(JobFiles).items():
        if name.startswith("_") or not (isinstance(member, property) or inspect.isfunction(member)):
            continue
        found: Any = getattr(shown, name)
        paths = dict.fromkeys((found(1), found("N"))) if callable(found) else (found,)
        names = dict.fromkeys(str(path).replace("1", "N") for path in paths)
        yield ", ".join(map(code, names)), first_paragraph(member)
