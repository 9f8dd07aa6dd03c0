"""`ugro check`: checks all nodes for what would break a training, or UGRO on this machine's GPUs."""

from __future__ import annotations

from pathlib import Path

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import nodes_option
from ugro.cli.output import print_json
from ugro.cli.render.check import print_check
from ugro.cli.render.gpu_check import GpuCheckPrinter
from ugro.common.errors import EXIT_JOB_FAILED, EXIT_NODES, EXIT_OK, InputError
from ugro.common.job_spec.setup import check_python
from ugro.common.text import visible
from ugro.service.schemas.check import Check, CheckDocument
from ugro.service.schemas.gpu_check import GpuCheck, GpuChecked


@command()
@nodes_option
@click.option("--network", is_flag=True, help="Also measure every network link, and an all-reduce over all nodes.")
@click.option("--gpu", is_flag=True, help="Check UGRO itself on the idle GPUs of this machine, in under four minutes.")
@click.option(
    "--python",
    metavar="PYTHON",
    help="What a job's --python names: a path, a conda environment. Default: the inventory's; with --gpu: UGRO's own.",
)
@click.option(
    "--capture",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="With --gpu: write outputs of nvidia-smi there, with other UUIDs.",
)
@json_option
def check(
    app: App, names: str | None, network: bool, gpu: bool, python: str | None, capture: Path | None, as_json: bool
) -> int:
    """Check all nodes for what would break a training.

    Nothing is changed on the nodes. The rates that --network measures are kept: a job gets the nodes with the fastest
    links among those that fit equally well.

    With --gpu: checks UGRO on this machine alone, without an inventory, with jobs of its own: nvidia-smi, torch, NCCL
    on every GPU, a CUDA OOM that is resumed with half the batch, a cancel, and estimates of memory. Nothing remains.

    Exit code: 0 without problems, 1 with problems, 3 if a node is unreachable. With --gpu, 2 if there is no idle GPU.
    """
    if gpu:
        if names or network:
            raise InputError("--gpu is about this machine alone", "omit --on and --network")
        return _check_gpus(app, python, capture, as_json)
    if capture:
        raise InputError("--capture is for --gpu", "ugro check --gpu")
    checked = app.call(Check(nodes=names, network=network, python=_python(python)))
    if as_json:
        print_json(checked.answer.as_json())
    else:
        print_check(checked)
    return _exit_code(checked.answer)


def _python(said: str | None) -> str | None:
    try:
        return None if said is None else check_python(said)
    except ValueError as error:
        raise InputError(
            f"--python: found {said!r}: {error}", "for example: ugro check --python ~/env/bin/python"
        ) from None


def _exit_code(found: CheckDocument) -> int:
    if any(node.error for node in found.nodes):
        return EXIT_NODES
    return EXIT_JOB_FAILED if any(finding.level == "problem" for finding in found.findings) else EXIT_OK


def _check_gpus(app: App, python: str | None, capture: Path | None, as_json: bool) -> int:
    if capture:
        _make(capture)
    with GpuCheckPrinter(silent=as_json) as printer:
        for item in app.stream(GpuCheck(python=python, capture=capture is not None)):
            if not isinstance(item, GpuChecked):
                printer.tell(item)
                continue
            if capture:
                _write(capture, item.captured)
            if as_json:
                print_json(item.answer.as_json())
            else:
                printer.sum_up(item.answer, str(capture) if capture else None)
            return EXIT_JOB_FAILED if any(one.state == "failed" for one in item.answer.checks) else EXIT_OK
    return EXIT_JOB_FAILED


def _make(folder: Path) -> None:
    """Make the folder for the outputs, before the check takes minutes.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        words = f"{visible(str(folder))} cannot be made: {error.strerror}"
        raise InputError(words, "name another folder: --capture DIR") from None


def _write(folder: Path, captured: dict[str, str]) -> None:
    """Write each output into a file. Raises OSError."""
    for name, text in captured.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
