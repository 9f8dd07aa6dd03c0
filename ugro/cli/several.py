"""Commands that take several jobs or nodes: each is done by itself, and the failure of one stops no other.

Jobs are found by `Select`, once; after a question the command acts on exactly these.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import click

from ugro.cli.app import App
from ugro.cli.complete import Completer, complete_job
from ugro.cli.main import report
from ugro.cli.output import console, print_hanging, print_json
from ugro.cli.prompts import answers
from ugro.common.errors import EXIT_OK, NoSuchJob, UgroError
from ugro.common.job_names import LAST, is_relative
from ugro.common.models.job_state import JobState
from ugro.common.text import printable, some
from ugro.service.schemas.naming import ChosenJob, NamedJob, Select

Did = tuple[dict[str, Any], str]
"""The result for one: the document for programs, and words for people; empty where they were printed already."""


def several(name: str, complete: Completer = complete_job) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The argument of such a command; its function gets `names`."""
    return click.argument("names", nargs=-1, required=True, metavar=f"{name}...", shell_complete=complete)


def tell_error(error: UgroError) -> None:
    """Print the error of one of several."""
    report(error.as_dict(), as_json=False)


def shown_progress(names: Sequence[str], doing: str) -> Iterator[str]:
    """Yield names, and show on a terminal's stderr how far that is, unless it is one: `doing` this one of so many."""
    if len(names) < 2:
        yield from names
        return
    with console(stderr=True).status("") as status:
        for done, name in enumerate(names):
            status.update(printable(f"{doing} {name} ({done} of {len(names)} done)"))
            yield name


def for_each(
    names: Sequence[str],
    act: Callable[[str], Did],
    as_json: bool,
    as_list: bool = False,
    tell: Callable[[UgroError], None] = tell_error,
    doing: str = "",
) -> int:
    """Do it with each; returns the worst exit code.

    With --json one name makes one document, as it always was, and several a list in their order, where a failure is
    `{"name", "error"}`. `as_list` makes one a list, too. Else `tell` gets each failure of several. With `doing`, how
    far it is is shown until that document is complete.

    Raises:
        UgroError: there is one name only, and it failed.
    """
    names = tuple(dict.fromkeys(names))
    documents, worst = list[dict[str, Any]](), EXIT_OK
    for name in shown_progress(names, doing) if doing and as_json else names:
        try:
            document, words = act(name)
        except UgroError as error:
            if len(names) == 1:
                raise
            document, worst = {"name": name, "error": error.as_dict()}, max(worst, error.exit_code)
            if not as_json:
                tell(error)
        else:
            if words and not as_json:
                for line in words.split("\n"):
                    print_hanging(line[: -len(line.lstrip())], line.lstrip())
        documents.append(document)
    if as_json:
        print_json(documents if as_list or len(names) > 1 else documents[0])
    return worst


# --- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobChoice:
    """The jobs of a command line, as they were typed."""

    references: tuple[str, ...]
    every: bool
    states: tuple[JobState, ...]
    yes: bool

    @property
    def is_one(self) -> bool:
        """Whether it is one job by its id, name or number, so that --json prints one document."""
        [*others, last] = self.references or ("*",)
        return not (self.every or self.states or others or (is_relative(last) and not last.startswith("@")))

    def typed(self, command: str) -> str:
        """Return a command for the same jobs."""
        words = ["ugro", command, *(shlex.quote(printable(reference)) for reference in self.references)]
        words += ["--all"] if self.every else []
        return " ".join([*words, *(f"--state {state.value}" for state in self.states)])


def jobs_arguments(metavar: str = "JOB...", consent: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The arguments of a command for several jobs; its function gets a `choice`. `consent`: it may ask."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(
            *args: Any,
            names: tuple[str, ...],
            mine: bool,
            everything: bool,
            states: tuple[str, ...],
            yes: bool = False,
            **kwargs: Any,
        ) -> Any:
            choice = JobChoice(names, mine or everything, tuple(map(JobState, states)), yes)
            return function(*args, choice=choice, **kwargs)

        for option in reversed(_OPTIONS if consent else _OPTIONS[:-1]):
            call = option(call)
        return click.argument("names", nargs=-1, metavar=metavar, shell_complete=complete_job)(call)

    return decorate


_OPTIONS = (
    click.option("--all", "everything", is_flag=True, help="Every job that the command accepts."),
    click.option("--mine", is_flag=True, help="Your jobs: all of this state directory, which is one person's."),
    click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]),
                 help="Only jobs in this state."),
    click.option("--yes", is_flag=True, help="Do not ask."),
)  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """The jobs that are meant."""

    found: tuple[NamedJob, ...]
    as_list: bool

    @property
    def ids(self) -> list[str]:
        """The ids of those that there are."""
        return [one.job.id for one in self.found if one.job]

    def checked(self) -> list[str]:
        """Return the ids.

        Raises:
            UgroError: one of the references means no job.
        """
        for one in self.found:
            if one.error:
                raise _error(one)
        return self.ids

    def each(
        self,
        act: Callable[[str], Did],
        as_json: bool,
        tell: Callable[[UgroError], None] = tell_error,
        doing: str = "",
    ) -> int:
        """Do it with each job by its id, as `for_each`; return the worst exit code, also of those that there are not.

        Of several, `tell` gets the failure of each.

        Raises:
            UgroError: there is one only, and it failed.
        """
        named = {_label(one): one for one in self.found}

        def one(label: str) -> Did:
            job = named[label].job
            if job is None:
                raise _error(named[label])
            return act(job.id)

        return for_each(list(named), one, as_json, self.as_list, tell, doing)


def choose(
    app: App, command: str, choice: JobChoice, as_json: bool, default: str | None = None, quiet: bool = False
) -> Chosen:
    """Find the jobs that are meant; ask before several that were not named one by one.

    `default` is the reference where none is named; None: one has to be. `quiet`: do not say which job a relative
    reference means.

    Raises:
        InputError: there is none, or asking is not possible. Declined: the answer is no.
    """
    if choice.references and choice.every:
        raise _usage("--all and --mine mean every job: leave out the JOBs, or these options")
    if not (choice.references or choice.every or choice.states):
        if default is None:
            raise _usage("a JOB is expected: an id, a name, a pattern like 'lr-*', or --all")
        choice = replace(choice, references=(default,))
    request = Select(command=command, references=choice.references, every=choice.every, states=choice.states)
    selection = app.call(request)
    if question := selection.question:
        answers([question], {question.id: True} if choice.yes else None, ask=not (as_json or choice.yes))
    for one in selection.found:
        if one.job and one.reference.startswith("@") and not (as_json or quiet):
            _tell(one.reference, one.job)
    return Chosen(selection.found, as_list=not choice.is_one)


def _usage(message: str) -> click.UsageError:
    return click.UsageError(message, click.get_current_context(silent=True))


def _label(one: NamedJob) -> str:
    """Return how a document names a job: as the person did, where that means no other."""
    return one.job.id if one.job and is_relative(one.reference) else one.reference


def _error(refused: NamedJob) -> UgroError:
    assert refused.error
    error = UgroError(refused.error.message, refused.error.hint)
    error.code, error.exit_code = refused.error.code, refused.exit_code
    return error


# --- one job ---------------------------------------------------------------------------------------------------------


def one_job(app: App, command: str, reference: str | None, as_json: bool = False, default: str = LAST) -> str:
    """Return the reference to a job that means the same in every request; say which one it is where that is not clear.

    Raises:
        InputError: there is no such job, or a pattern means several.
    """
    if reference is not None and not is_relative(reference):
        return reference
    asked = reference or default
    [found, *others] = app.call(Select(command=command, references=(asked,))).found
    jobs = [one.job for one in (found, *others) if one.job]
    if len(jobs) > 1:
        raise _several_meant(command, asked, jobs)
    if others or found.job is None:  # the request that follows says what is wrong with it
        return asked
    if not as_json:
        _tell(asked, found.job)
    return found.job.id


def _several_meant(command: str, reference: str, jobs: Sequence[ChosenJob]) -> NoSuchJob:
    """Return why a reference names no job for a command that takes one, and the command for one of them."""
    jobs = sorted(jobs, key=lambda job: (not job.state.on_nodes, job.state != JobState.FAILED))  # the likely ones first
    named = some([f"{job.id} ({job.state.value})" for job in jobs])
    return NoSuchJob(
        f"one job is expected here, and {printable(reference)!r} means {len(jobs)}: {named}",
        f"name one of them: ugro {command} {jobs[0].id}; to list them: ugro status {shlex.quote(printable(reference))}",
    )


def _tell(reference: str, job: ChosenJob) -> None:
    name = "" if job.name == job.id else f" ({job.name})"
    print_hanging("note: ", f"{reference} is {job.id}{name}, {job.state.value}", err=True, dim=True)
