"""What the shell completes beside options: jobs, nodes and files, from the records alone. No node is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import click
from click.shell_completion import CompletionItem

from ugro.common.config import Inventory, inventory_path, load_inventory, ugro_home
from ugro.common.models.job import Job
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.job_folders import number_of
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.scheduler.accepted import accepts
from ugro.service.schemas.queries import RECENT

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def _store() -> MetadataStore:
    return MetadataStore(ugro_home())


def _inventory(ctx: click.Context) -> Inventory:
    return load_inventory(inventory_path(ctx.find_root().params.get("inventory")))


def _fitting(words: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem(word) for word in dict.fromkeys(words) if word.startswith(incomplete)]


def _by_reference(jobs: Iterable[Job]) -> Iterator[tuple[str, Job]]:
    """Each job by its id, and by its name where that means this job: a name stands for the newest job that has it."""
    named: dict[str, Job] = {}
    for job in jobs:  # live ones first, as a name is looked up
        yield job.id, job
        first = named.setdefault(job.name, job)
        if first.state.ended == job.state.ended and number_of(first.id) < number_of(job.id):
            named[job.name] = job
    yield from named.items()


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Ids and names of the jobs of which the command can be asked."""
    store, request = _store(), ctx.info_name or ""
    if request in ("approve", "deny"):
        open_ = {proposal.job for proposal in store.decisions.proposals().values() if not proposal.approved}
        return _fitting(_words(store, lambda job: job.id in open_), incomplete)
    given = set(_given(ctx, param))
    return _fitting(_words(store, lambda job: accepts(request, job) and not given & {job.id, job.name}), incomplete)


def _words(store: MetadataStore, fits: Callable[[Job], bool]) -> list[str]:
    jobs = [*store.jobs.live(pass_over), *store.jobs.recent(RECENT, pass_over)]
    return [word for word, job in _by_reference(jobs) if fits(job)]


def complete_jobs_listed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """A comma-separated list of jobs that have not ended."""
    return _listed(_words(_store(), lambda job: not job.state.ended), incomplete)


def complete_node(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The names of nodes, without those that the command line has already."""
    given = set(_given(ctx, param))
    return _fitting((name for name in _inventory(ctx).nodes if name not in given), incomplete)


def complete_drained(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The names of drained nodes."""
    given = set(_given(ctx, param))
    return _fitting((name for name in _store().config.drains() if name not in given), incomplete)


def complete_nodes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """A comma-separated list of nodes."""
    return _listed(_inventory(ctx).nodes, incomplete)


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Files, by the shell's own means."""
    return [CompletionItem(incomplete, type="file")]


def complete_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Folders, likewise."""
    return [CompletionItem(incomplete, type="dir")]


def _listed(words: Collection[str], incomplete: str) -> list[CompletionItem[str]]:
    before, comma, _ = incomplete.rpartition(",")
    given = before.split(",")
    return _fitting((f"{before}{comma}{word}" for word in words if word not in given), incomplete)


def _given(ctx: click.Context, param: click.Parameter) -> tuple[str, ...]:
    """The values that an argument has so far, where it takes several."""
    value = ctx.params.get(param.name or "")
    return value if isinstance(value, tuple) else ()


nodes_option = click.option(
    "--on", "names", metavar="NODES", shell_complete=complete_nodes, help="Comma-separated. Default: all nodes."
)
