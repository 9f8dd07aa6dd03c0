"""events.md: every kind of event that the code records, with what it means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ugro
from reference.markdown import Incomplete, code, page, prose, table
from reference.recorders import kinds, sources

OF_JOBS = {
    "submitted": "The job was taken in. The message is its command.",
    "queued": "A launch was broken off before any rank started: the job waits for its turn again.",
    "held": "`ugro hold` keeps the job from starting.",
    "released": "`ugro release` lets a held job take its turn again.",
    "priority": "The job has another priority.",
    "starting": "The job got its nodes and GPUs, or its launch is tried again. The message says why these.",
    "placed": "The address where its ranks meet is known. The message names it and the interfaces.",
    "running": "All ranks were started, the nodes of an unknown job answer again, or a hang is over.",
    "ranks": "The state of single ranks changed.",
    "unmet": "No rank has begun for a minute: the meeting point is not reached. The message names the nodes.",
    "moved": "A node of the job is reached at another address now.",
    "unknown": "A node of the job cannot be read, so its state is not known.",
    "extended": "The job has a longer time limit, or, with a node, that node keeps it now.",
    "checkpoint": "A checkpoint was saved because `ugro checkpoint` asked for one.",
    "hang": "The job seems to hang. The message names the rank that takes no part, if one differs.",
    "idle": "All GPUs of the job did nothing for an hour of watching. Once an attempt.",
    "cancel": "The end of the job was requested. It takes until its nodes confirm.",
    "failing": "The job failed and its other ranks are being ended. The message names what failed first.",
    "leftovers": "A job that succeeded left processes running: they are waited for, or were ended.",
    "cleared": "No process of an ended job remains on a node that was unreachable, or its folder there was removed.",
    "succeeded": "All ranks ended with 0.",
    "failed": "The job failed; all of its ranks have ended.",
    "cancelled": "The job was cancelled; all of its ranks have ended.",
    "proposal": "UGRO proposes something about the job, or about an unreachable node (`ugro proposals`).",
    "withdrawn": "What was proposed is no longer proposed, since the job changed.",
    "denied": "`ugro deny` left the job as it is.",
    "recovery": "The job is not tried again, or cannot be resumed. The message says why.",
    "resumed": "A new attempt was queued. The message names its checkpoint and its code.",
    "restored": "An older copy of the job's record was put back.",
    "removed": "`ugro rm` removed the job.",
}
"""Kinds of events that have a job, in the order of its life."""

OF_NODES = {
    "joined": "The node answered for the first time. The message names its GPUs.",
    "silent": "The node is unreachable. The message says why.",
    "answers": "The node is reachable again.",
    "rebooted": "The node has another boot id.",
    "other_master": "The node belongs to another master and gets no jobs of this one.",
    "gpu_gone": "A GPU has disappeared.",
    "gpu_new": "A GPU was added.",
    "gpu_problem": "A GPU or its driver reports a problem.",
    "gpu_well": "A GPU with a problem works again.",
    "driver": "The node has another driver version.",
    "drained": "The node gets no new jobs. The message is the reason.",
    "undrained": "The node gets jobs again.",
}
"""Kinds of events that have a node and no job."""

OF_UGRO = {
    "alert": "A channel of alerts fails or works again, or no alerts can be sent.",
    "damaged": "A file in the state directory is damaged. The message says where its content was put.",
}
"""Kinds of events that have neither."""


def events_page() -> str:
    """Return the page of all kinds of events."""
    described = {**OF_JOBS, **OF_NODES, **OF_UGRO}
    check(described, kinds(sources(Path(ugro.__file__).parent)))
    heads = ("kind", "meaning")
    return page(
        "Events",
        "The timeline that `ugro events` shows: `$UGRO_HOME/events.jsonl`, and `events.jsonl` in each job's folder. A "
        "line has `at`, `job`, `node`, `kind` and `message`. Scripts may match `kind`; messages may change.",
        *(
            f"## {title}\n\n{table(heads, ((code(kind), prose(text)) for kind, text in part.items()))}"
            for title, part in (("Of jobs", OF_JOBS), ("Of nodes", OF_NODES), ("Of UGRO itself", OF_UGRO))
        ),
    )


def check(described: Mapping[str, str], recorded: Mapping[str, set[str]]) -> None:
    """See that the tables have exactly the kinds that the code records.

    Raises:
        Incomplete: one is missing, or recorded no longer.
    """
    for kind, paths in sorted(recorded.items()):
        if kind not in described:
            where = ", ".join(sorted(paths))
            raise Incomplete(f"event `{kind}` ({where}) has no description: add it to scripts/reference/events.py")
    if stale := sorted(set(described) - set(recorded)):
        raise Incomplete(f"no code records {', '.join(stale)}: remove it from scripts/reference/events.py")
