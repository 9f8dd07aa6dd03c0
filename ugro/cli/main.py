"""The `ugro` command. Commands are found by name and imported when they are used, so that `ugro --help` stays quick."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from ugro.cli.terminal import colour
from ugro.common.errors import (
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    Declined,
    InventoryError,
    NodeError,
    NoSuchNode,
    UgroError,
)

Entry = tuple[str, str, str]
"""A command's module, its attribute there, and the first line of its help."""

COMMANDS: dict[str, Entry] = {
    "launch": (
        "ugro.cli.commands.launch",
        "launch",
        "Run a training: a script, a job.yaml, a plain command, or the default script.",
    ),
    "status": ("ugro.cli.commands.status", "status", "Show the cluster and its jobs, or one job in detail."),
    "logs": ("ugro.cli.commands.logs", "logs", "Show the output of a job's ranks."),
    "metrics": (
        "ugro.cli.commands.metrics",
        "metrics",
        "Show the training curves of a job: loss, learning rate and other series.",
    ),
    "report": ("ugro.cli.commands.report", "report", "Write a report of a job: one HTML file that needs no server."),
    "stacks": ("ugro.cli.commands.stacks", "stacks_", "Show each rank's stack trace."),
    "exec": (
        "ugro.cli.commands.enter",
        "exec_",
        "Run a command where a job runs: in its directory, with its environment and GPUs.",
    ),
    "ssh": ("ugro.cli.commands.enter", "ssh_", "Open a terminal on a node, or where a job runs."),
    "forward": (
        "ugro.cli.commands.enter",
        "forward_",
        "Forward a port of this machine to a port of a node, until Ctrl-C.",
    ),
    "notebook": (
        "ugro.cli.commands.notebook",
        "notebook",
        "Start a Jupyter notebook on a node's GPU, or connect to one that runs.",
    ),
    "tensorboard": (
        "ugro.cli.commands.tensorboard",
        "tensorboard",
        "Show the event files of jobs in TensorBoard, on this machine.",
    ),
    "cancel": ("ugro.cli.commands.jobs", "cancel", "End a job on every node and verify that no processes remain."),
    "rerun": ("ugro.cli.commands.again", "rerun", "Run a job again: a new job with the same spec and the same code."),
    "edit": ("ugro.cli.commands.again", "edit", "Change a job that waits: its nodes, its arguments, when it starts."),
    "hold": ("ugro.cli.commands.queue", "hold", "Hold a queued job until it is released."),
    "release": ("ugro.cli.commands.queue", "release", "Release a held job to its place in the queue."),
    "reprioritize": ("ugro.cli.commands.queue", "reprioritize", "Change the priority of a waiting job."),
    "extend": ("ugro.cli.commands.extend", "extend_", "Extend a job's time limit."),
    "why": ("ugro.cli.commands.queue", "why", "Show a job's pending reasons, or why it runs where it does."),
    "events": ("ugro.cli.commands.events", "events", "Show the timeline of a job or of the cluster."),
    "explain": ("ugro.cli.commands.explain", "explain_", "Explain why a job failed, or any training from its logs."),
    "alerts": (
        "ugro.cli.commands.alerts",
        "alerts",
        "Send alerts: set up channels and rules, send a test message.",
    ),
    "checkpoint": ("ugro.cli.commands.checkpoints", "checkpoint", "Ask a running job to save a checkpoint now."),
    "checkpoints": (
        "ugro.cli.commands.checkpoints",
        "checkpoints",
        "List a job's checkpoints on all nodes, complete or incomplete.",
    ),
    "resume": ("ugro.cli.commands.resume", "resume", "Resume an ended job from its last complete checkpoint."),
    "ls": ("ugro.cli.commands.files", "ls", "List the files of a job on its nodes."),
    "pull": ("ugro.cli.commands.files", "pull", "Copy files of a job from its nodes to this machine."),
    "push": ("ugro.cli.commands.files", "push", "Copy a file or folder of this machine to a node."),
    "proposals": ("ugro.cli.commands.proposals", "proposals", "List what UGRO proposes for failed jobs."),
    "approve": (
        "ugro.cli.commands.proposals",
        "approve",
        "Approve a proposal: resume the job as a new attempt.",
    ),
    "deny": ("ugro.cli.commands.proposals", "deny", "Deny a proposal: leave the job as it is."),
    "rm": ("ugro.cli.commands.remove", "rm", "Remove ended jobs: record, logs, code, folders on nodes."),
    "wait": ("ugro.cli.commands.jobs", "wait", "Wait until jobs have ended."),
    "top": ("ugro.cli.commands.top", "top", "Watch nodes, GPUs and jobs, live."),
    "nodes": ("ugro.cli.commands.nodes", "nodes", "Show the nodes and their GPUs."),
    "history": ("ugro.cli.commands.history", "history", "Show the use of each GPU over the last hours."),
    "drain": ("ugro.cli.commands.nodes", "drain", "Drain a node: start no new jobs on it."),
    "undrain": ("ugro.cli.commands.nodes", "undrain", "Undrain a node: start jobs on it again."),
    "estimate": ("ugro.cli.commands.estimate", "estimate", "Estimate whether a training fits into the GPUs' memory."),
    "footprint": ("ugro.cli.commands.footprint", "footprint", "List everything that UGRO has on the nodes."),
    "job": ("ugro.cli.main", "job", "Group the commands about jobs, such as `ugro job logs`."),
    "node": ("ugro.cli.main", "node", "Group the commands about nodes, such as `ugro node clean`."),
    "measure": ("ugro.cli.commands.nodes", "measure", "Measure how fast each idle GPU trains."),
    "run": ("ugro.cli.commands.nodes", "run", "Run a command on every node."),
    "check": ("ugro.cli.commands.check", "check", "Check all nodes for what would break a training."),
    "sweep": (
        "ugro.cli.commands.nodes",
        "sweep",
        "Run one scheduling pass, for cron.",
    ),
    "serve": (
        "ugro.cli.commands.serve",
        "serve",
        "Run the resident controller: schedule, watch and recover jobs.",
    ),
    "dashboard": ("ugro.cli.commands.dashboard", "dashboard", "Open the dashboard in the browser."),
    "cron": ("ugro.cli.commands.cron", "cron", "Run `ugro sweep` from your crontab: install, remove, show."),
    "state": ("ugro.cli.commands.maintenance", "state", "Maintain UGRO's own records."),
    "gc": (
        "ugro.cli.commands.maintenance",
        "gc",
        "Remove what old jobs left: logs, code, folders on nodes, environments.",
    ),
    "init": ("ugro.cli.commands.init", "init", "Write a first inventory, and add the machines to it."),
    "trust": ("ugro.cli.commands.trust", "trust", "Show a node's host keys and record them once you agree."),
    "sandbox": ("ugro.cli.commands.sandbox", "sandbox", "Run a simulated cluster of three nodes, without hardware."),
    "secret": ("ugro.cli.commands.secrets", "secret", "Keep tokens and passwords for jobs: set, list, remove."),
    "completion": ("ugro.cli.commands.completion", "completion", "Print the shell completion script."),
    "help": ("ugro.cli.commands.help", "help_", "Show the help of a command, or write the man pages."),
}

ALIASES = {"ps": "status", "describe": "status", "kill": "cancel", "submit": "launch"}
"""Names that other tools have for commands. They are the command in every way, and stand in `ugro help` alone."""

SUBJECTS = {
    "Jobs": (
        *("launch", "rerun", "status", "logs", "metrics", "report", "stacks", "exec"),
        *("notebook", "tensorboard"),
        *("cancel", "wait", "extend", "estimate", "rm", "job"),
    ),
    "Files": ("ls", "pull", "push"),
    "Queue": ("why", "edit", "hold", "release", "reprioritize", "events"),
    "Recovery": ("explain", "checkpoint", "checkpoints", "resume", "proposals", "approve", "deny"),
    "Nodes": (
        "nodes",
        "history",
        "check",
        "drain",
        "undrain",
        "run",
        "measure",
        "footprint",
        "trust",
        "ssh",
        "forward",
        "node",
    ),
    "Cluster": ("top", "serve", "dashboard", "sweep", "cron", "alerts", "gc", "state"),
    "Set-up": ("init", "secret", "sandbox", "completion", "help"),
}
"""The headings of `ugro --help` with their commands, in its order."""

OF_A_JOB = (
    *("launch", "rerun", "status", "logs", "metrics", "report", "stacks", "exec", "cancel", "wait", "extend"),
    *("estimate", "rm", "why", "edit", "hold", "release", "reprioritize", "events"),
    *("explain", "checkpoint", "checkpoints", "resume", "approve", "deny"),
    *("ls", "pull"),
)
OF_A_NODE = ("history", "check", "drain", "undrain", "run", "measure", "footprint", "trust")
"""Commands that are also found in the groups `ugro job` and `ugro node`."""

CLEAN: Entry = ("ugro.cli.commands.footprint", "clean_node", "Clean a node: remove everything that UGRO has there.")
PYTHON: Entry = ("ugro.cli.commands.node_python", "python_", "Find the Python of a node that can train, or make one.")

OF_THE_INVENTORY: dict[str, Entry] = {
    "add": (
        "ugro.cli.commands.node",
        "add_node",
        "Add a machine: host key, key login, check, inventory.",
    ),
    "remove": (
        "ugro.cli.commands.node",
        "remove_node",
        "Remove a node: UGRO's folder and key there, its inventory entry.",
    ),
    "rename": ("ugro.cli.commands.node", "rename_node", "Give a node another name."),
}
"""Commands of `ugro node` alone."""

COMPLETION = "_UGRO_COMPLETE"
"""The variable by which the shell's completion script asks."""

EPILOG = """\b
Exit codes:
    0  done
    1  the job that was awaited or followed failed, or saved no checkpoint
    2  wrong input, inventory or job spec
    3  nodes unreachable or not trusted
    4  state directory unreadable or locked
    5  you answered no
    6  `ugro wait --timeout` was reached, and the job has not ended
  130  interrupted"""


def _json_behind_command(args: list[str]) -> list[str]:
    """Return the words with a `--json` before the command moved behind it, where the command expects it."""
    at = 0
    while at < len(args) and args[at].startswith("-"):
        at += 2 if args[at] in ("--inventory", "--log-level") else 1
    before, after = args[:at], args[at:]
    if "--json" not in before:
        return args
    before = [word for word in before if word != "--json"]
    end = after.index("--") if "--" in after else len(after)
    return [*before, *after[:end], *(["--json"] if after else []), *after[end:]]


class LazyGroup(click.Group):
    """Knows the names and one-line helps of its commands, and imports a command only to run it."""

    def __init__(self, *args: Any, table: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table
        self.aliases = {name: meant for name, meant in ALIASES.items() if meant in table}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, attribute, _ = self.table[cmd_name]
        gc.disable()  # imports make no garbage, and looking for it, now or later, takes a quarter of their time
        command: click.Command = getattr(importlib.import_module(module), attribute)
        gc.freeze()
        gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in self.table.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.aliases:
            args = [self.aliases[args[0]], *args[1:]]
        if args and args[0] not in self.table and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], {**self.table, **self.aliases}, 1)
            hint = (
                f"did you mean `{ctx.command_path} {near[0]}`?"
                if near
                else f"`{ctx.command_path} --help` lists the commands"
            )
            raise click.UsageError(f"no such command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


class CommandLine(LazyGroup):
    """The group of all commands, under headings by subject."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _json_behind_command(args))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in SUBJECTS.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.table))
        for heading, names in SUBJECTS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), self.table[name][2]) for name in names])
        with formatter.section("Other names"):
            formatter.write_text(", ".join(f"{name} = {meant}" for name, meant in ALIASES.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader (`| head`) has seen enough; Python would complain once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(EXIT_OK) from None
        except (NodeError, NoSuchNode, InventoryError) as error:
            from ugro.cli.whence import whence  # here, since only errors have a use for it

            error.add_note(whence(ctx.obj))
            raise


@click.group(
    cls=CommandLine,
    table=COMMANDS,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="ugro", prog_name="ugro")
@click.option(
    "--inventory",
    metavar="FILE",
    type=click.Path(),
    help="The inventory. Default: $UGRO_INVENTORY, ./inventory.yaml, $UGRO_HOME/inventory.yaml.",
)
@click.option("--local", is_flag=True, help="Act in this process, even if a resident controller (ugro serve) runs.")
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    help="The lowest level that is written to $UGRO_HOME/log/ugro.log.",
)
@click.pass_context
def cli(ctx: click.Context, inventory: str | None, local: bool, log_level: str) -> None:
    """Run trainings on a few GPU machines with SSH as if they were one."""
    ctx.obj = inventory
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


job = LazyGroup("job", table={name: COMMANDS[name] for name in OF_A_JOB}, help=COMMANDS["job"][2])
node = LazyGroup(
    "node",
    table={"list": COMMANDS["nodes"]}
    | OF_THE_INVENTORY
    | {name: COMMANDS[name] for name in OF_A_NODE}
    | {"python": PYTHON, "clean": CLEAN},
    help=COMMANDS["node"][2],
)


def main() -> NoReturn:
    """Run the command line; every error that a user can cause ends in one line, a hint and an exit code."""
    if os.environ.get(COMPLETION, "").endswith("_complete"):
        _complete()
    as_json = "--json" in sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None]
    if sys.stdout is None or sys.stderr is None:  # closed by the shell (`>&-`)
        nobody = open(os.devnull, "w")  # noqa: SIM115
        sys.stdout, sys.stderr = sys.stdout or nobody, sys.stderr or nobody
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows only ASCII gets "?" for the rest
            stream.reconfigure(errors="replace")
    try:
        sys.exit(cli.main(prog_name="ugro", standalone_mode=False, color=colour()) or EXIT_OK)
    except Declined as error:
        if as_json:
            report(error.as_dict(), as_json)
        else:
            click.echo(error.message, err=True)
        sys.exit(error.exit_code)
    except UgroError as error:
        report(error.as_dict(), as_json, getattr(error, "__notes__", ()))
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without its subcommand, which is answered by its help
        click.echo(error.format_message(), err=True)
        sys.exit(EXIT_INPUT)
    except click.ClickException as error:
        usage = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "ugro"
        report({"code": "usage", "message": error.format_message(), "hint": f"see: {usage} --help"}, as_json)
        sys.exit(EXIT_INPUT)
    except (KeyboardInterrupt, click.Abort):
        report({"code": "interrupted", "message": "interrupted", "hint": ""}, as_json)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:  # what the disk or the terminal says, where no command knew better
        where = error.filename or ("the output cannot be written" if error.errno == errno.ENOSPC else "")
        _drop_output_that_fails()
        message = ": ".join(filter(None, (where, error.strerror or str(error))))
        report({"code": "system", "message": message, "hint": ""}, as_json)
        sys.exit(EXIT_INPUT)


def _drop_output_that_fails() -> None:
    """Discard what stdout cannot take, which Python would try again at its end, with an exit code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complete() -> NoReturn:
    """Answer the shell that completes a line. Whatever is wrong, nothing is printed over what the person types."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.suppress(Exception):
        importlib.import_module("ugro.cli.commands.completion")  # knows the peculiarities of shells
        cli.main(prog_name="ugro", complete_var=COMPLETION)
    sys.exit(EXIT_OK)


def report(error: dict[str, Any], as_json: bool, notes: Sequence[str] = ()) -> None:
    """Print an error on stderr: what happened, and what to do next."""
    if as_json:
        click.echo(json.dumps({"error": error}), err=True)
        return
    from ugro.cli.output import hanging, terminal_width  # here, since only errors have a use for it in this module

    width = terminal_width(True)
    first, *rest = hanging("error: ", error["message"], width)
    lines = [click.style("error:", fg="red", bold=True) + first.removeprefix("error:"), *rest]
    if error["hint"]:
        first, *rest = hanging("next:  ", error["hint"], width)
        lines += [click.style("next:", fg="cyan") + first.removeprefix("next:"), *rest]
    further = (line for note in notes for part in note.split("\n") for line in hanging("", part, width))
    lines += [click.style(line, dim=True) for line in further]
    click.echo("\n".join(lines), err=True, color=colour())
