"""`ugro node python`: finds the Python of a node that can train, or makes one there."""

from __future__ import annotations

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_node
from ugro.cli.output import print_hanging, print_json
from ugro.cli.prompts import answers
from ugro.cli.render.node_python import print_made, print_pythons
from ugro.common.errors import EXIT_JOB_FAILED, EXIT_OK, InputError
from ugro.common.text import printable
from ugro.service.schemas.node_python import FindPython, MakePython, PlanPython, PythonMade


@command(name="python")
@click.argument("name", metavar="NODE", shell_complete=complete_node)
@click.option("--make", is_flag=True, help="Make an environment with a torch that suits all nodes.")
@click.option("--index-url", metavar="URL", help="Base of the package indexes, for a mirror. Default: PyTorch's own.")
@click.option("--yes", is_flag=True, help="With --make: do not ask.")
@json_option
def python_(app: App, name: str, make: bool, index_url: str | None, yes: bool, as_json: bool) -> int:
    """Find the Python of a node that can train.

    Tries every interpreter there: the configured one, environments of conda, venv, pyenv and uv, and those that UGRO
    made. One can train if its torch is right about a matrix product on a GPU of the node. Nothing is written.

    With --make: makes an environment in the node's base directory, below `envs`, with uv or `python3 -m venv`. The
    build of torch suits the GPUs and drivers of all nodes. Repeat it after an interruption; `ugro node clean` removes
    it. The inventory stays as it is: set `python` of the node to the path.

    Exit code: 0 if one can train, 1 if none can, 3 if the node is unreachable.
    """
    if (index_url or yes) and not make:
        raise InputError("--index-url and --yes are for --make", f"ugro node python {name} --make")
    if make:
        return _make(app, name, index_url, yes, as_json)
    found = app.call(FindPython(node=name))
    if as_json:
        print_json(found.as_json())
    else:
        print_pythons(found)
    return EXIT_OK if found.taken else EXIT_JOB_FAILED


def _make(app: App, name: str, index_url: str | None, yes: bool, as_json: bool) -> int:
    plan = app.call(PlanPython(node=name, index_url=index_url))
    said = answers(plan.questions, {"make": True} if yes else None, ask=not as_json)
    for item in app.stream(MakePython(plan=plan, answers=said)):
        if isinstance(item, PythonMade):
            if as_json:
                print_json(item.answer.as_json())
            else:
                print_made(item.answer)
            return EXIT_OK if item.answer.python.usable else EXIT_JOB_FAILED
        print_hanging("  ", printable(item.line), err=True, dim=True)
    return EXIT_JOB_FAILED
