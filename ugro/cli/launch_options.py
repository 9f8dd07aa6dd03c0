"""Options of `ugro launch`, in groups: each is a field of the job spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click

from ugro.cli.app import Whole
from ugro.cli.complete import complete_file, complete_folder, complete_jobs_listed, complete_nodes, complete_secret
from ugro.common.job_spec import PRIORITIES
from ugro.common.job_spec.launchers import Launcher

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _group(*options: Decorator) -> Decorator:
    """Return options as one decorator; help lists them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


what_runs_options = _group(
    click.option("-m", "--module", is_flag=True, default=None, help="SCRIPT is a module, as for torchrun: pkg.train."),
    click.option(
        "--no-python", is_flag=True, default=None, help="SCRIPT is a program: ./train.sh, or one in the nodes' PATH."
    ),
    click.option(
        "--launcher",
        type=click.Choice(get_args(Launcher)),
        help="What starts the ranks on each node. Default: torchrun. With python and none: one process, on one node.",
    ),
    click.option("--launcher-args", metavar="WORDS", help="Options of the launcher: '--mixed_precision bf16'."),
)
"""Options that say how the script is run."""

placement_options = _group(
    click.option(
        "--nodes",
        shell_complete=complete_nodes,
        metavar="N|NAMES",
        help="Number of nodes, or their names (comma-separated). Default: all.",
    ),
    click.option(
        "--gpus",
        type=Whole(min=1, instead="; without a GPU: --gpus-per-node 0"),
        metavar="N",
        help="GPUs in all, placed on as few nodes as possible (of --nodes, where given).",
    ),
    click.option(
        "--gpus-per-node", type=Whole(min=0), metavar="N", help="GPUs of each node. Default: all; 0: one CPU rank."
    ),
    click.option(
        "--vram",
        metavar="SIZE",
        help="Minimum memory of each GPU: 10G.",
    ),
    click.option(
        "--share",
        is_flag=False,
        flag_value="vram",
        metavar="[FRACTION]",
        help="Share one GPU with other jobs: 0.5 of it, or the memory that --vram says.",
    ),
)
"""Options that say where a job runs."""

environment_options = _group(
    click.option(
        "--env",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="Environment variable of every rank; a name alone forwards yours.",
    ),
    click.option(
        "--env-file",
        multiple=True,
        metavar="FILE",
        shell_complete=complete_file,
        help="File of NAME=VALUE lines; --env wins over it.",
    ),
    click.option(
        "--secret",
        "secrets",
        multiple=True,
        metavar="NAME",
        shell_complete=complete_secret,
        help="Secret for the setup and every rank (`ugro secret set`); VARIABLE=NAME under another name.",
    ),
    click.option("--python", metavar="PYTHON", help="Python on the nodes: a path, a conda environment, or uv."),
    click.option("--setup", metavar="CMD", help="Shell command that sets the environment up, before the start."),
)
"""Options that say what the ranks find around them."""

identity_options = _group(
    click.option("--name", help="Name of the job; commands take it in place of the id."),
)
"""Options that say what a job is called."""

hold_option = click.option("--hold", is_flag=True, default=None, help="Submit the job held until `ugro release`.")

sweep_options = _group(
    click.option(
        "--sweep",
        multiple=True,
        metavar="ARG=VALUES",
        help="One job for each value (1e-3,1e-4 or 1..5); repeated: for each combination.",
    ),
    click.option("--max-parallel", type=Whole(min=1), metavar="N", help="Jobs of the sweep that run at a time."),
)
"""Options that make several jobs of one launch."""

order_options = _group(
    click.option("--priority", type=Whole(*PRIORITIES), help="Higher starts sooner. Default: 0."),
    click.option(
        "--after",
        multiple=True,
        shell_complete=complete_jobs_listed,
        metavar="JOB[:any],…",
        help="Start once JOB succeeded (:failure: failed, :any: ended).",
    ),
    click.option("--not-before", metavar="TIME", help="Do not start earlier: +2h, 22:30, 2026-11-24T22:30."),
    click.option(
        "--time",
        "time_limit",
        metavar="TIME",
        help="Time limit: 90m, 1h30m, or as in Slurm: 90 (minutes), 1:30:00, 1-12. Needed for backfill.",
    ),
    click.option(
        "--time-warning",
        metavar="TIME",
        help="Send SIGUSR2 this long before the limit. Default: a tenth of it, at most 5m.",
    ),
    click.option("--grace", metavar="TIME", help="Time for processes that are still running after success: 10m."),
)
"""Options that say when a job starts, and how long it may run; a job that waits has no `hold_option`."""

recovery_options = _group(
    click.option(
        "--on-failure",
        multiple=True,
        metavar="[CAUSE=]ask|retry|fail",
        help="Propose a retry and ask, retry, or leave it failed.",
    ),
    click.option(
        "--checkpoints",
        metavar="DIR",
        shell_complete=complete_folder,
        help="Where the script saves checkpoints, if not in its own folder.",
    ),
    click.option("--resume-with", metavar="WORDS", help="Arguments to resume with: '--resume_from_checkpoint {path}'."),
)
"""Options that say what happens after a failure, and from where a job resumes."""

outputs_options = _group(
    click.option(
        "--outputs",
        multiple=True,
        metavar="GLOB",
        help="Results, where the script runs: 'out/**'. They come to the master after success.",
    ),
)
"""Options that say what a job's results are."""

field_options = _group(
    *(placement_options, environment_options, identity_options, order_options, recovery_options, outputs_options)
)
"""Fields of a job that waits, or of one like another: what runs stays."""

spec_options = _group(what_runs_options, sweep_options, hold_option, field_options)
"""All fields of a job spec that a command line may give."""

submission_options = _group(
    click.option(
        "--follow", "following", is_flag=True, help="Show the logs until the job has ended; exit code 1 if it failed."
    ),
    click.option("--yes", is_flag=True, help="Do not ask about large folders or a memory shortfall."),
    click.option("--takeover", is_flag=True, help="Take over nodes of another master."),
)
"""Options of what submits a job now."""
