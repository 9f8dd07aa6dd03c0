"""The master's memory: plain JSON files that `cat` and `jq` read.

    $UGRO_HOME/
      lock                held by the process that changes records (flock; readable text); tick.lock: by the one that
                          observes and decides; serve.lock: by the resident controller. A process that takes a job's
                          next step on its nodes locks the job's folder (flock)
      master              this master's id
      cluster.json        TinyDB: nodes (last view of each), jobs (index of the live ones), drains, meta (with the seal
                          of finished.jsonl), leftovers, speeds, proposals, what is undecided and whose
                          outputs are to come; cluster.json.before: the copy before the last change;
                          cluster.json.aside: its damaged rows, one JSON line each
      finished.jsonl      index of the jobs that ended, one Summary a line
      events.jsonl        every change of every job and node (the older half in events.1.jsonl)
      links.jsonl         how fast the way from each node to each other was measured to be
      alerts.yaml         the user's channels and rules (docs/alerts.md); alerts.json: alerts sent, and alerts to send
      log/ugro.log        what UGRO did and what surprised it, without secrets (the older half in ugro.log.1)
      ugro.sock           where the resident controller takes requests, while it runs
      secrets/            a file of mode 0600 for each secret (docs/jobs.md); their values are masked in all the others
                          but specs and logs
      token               the token of HTTP callers that change things; token.view: of those that read (docs/api.md)
      incoming/           code that clients of the resident controller send; its snapshot is taken from there
      snapshots/          where the last snapshot of each working directory is, for the next one to share files with
      history/NODE/       raw.jsonl, looks.jsonl, quarters.jsonl: what its GPUs showed, each 2 s, minute and quarter of
                          an hour (the older halves in raw.1.jsonl …)
      jobs/job-001/       job.json (job.json.before: the copy before the last change), spec.json, events.jsonl,
                          metrics.jsonl (samples of its GPUs), metrics/ (the series of its training: `training`),
                          watchdog.json (what the watchdog remembers), snapshot/ (the code; snapshot-N/: that of attempt
                          N and those after it, where it is other code; unchanged files are hard links to those of
                          other snapshots; snapshot.json: its list of files), logs/<attempt>/ (prefixes of
                          the nodes' logs; ends/: the ends of long ones; index/: where their lines are),
                          outputs/ (copies of the files that it declares), outputs.json (what became of
                          them), tensorboard/ (copies of its event files)

Of jobs that were removed, jobs/.removed keeps the highest number, and cluster.json (removals) what nodes still owe.

A job's folder is its truth; both indexes are rebuilt from the folders (`ugro state rebuild`). The order of writes: a
new job enters the index before its record is written, an ended one leaves it after its record and its summary are. So
a crash leaves at most an index entry too many, which the next tick settles. A change goes to the record, which has its
event, then to the cluster's timeline, then to the job's: what a crash kept from these is added at the next tick.

A record that cannot be read, is that of another job, or is gone is no job's end: lists pass it over and name it, a
rebuild leaves it where it was, and no job starts, since what a live one holds is not known. Only a folder that never
had a record is passed over without a message: a submission that was cut short.

A record with a later schema version, or with keys that are not known, is one of a newer UGRO: it is named so and left
as it is, nothing older is put in its place, and it stops nothing unless the job may hold something.

A damaged row of `cluster.json` counts as not there and stops nothing (`rows`); the drains are then taken from the
timeline, and the live jobs from their folders. Where all of it is broken or gone, a rebuild takes its copy, and the
drains from the timeline. `status` and `sweep` report an archive that says less than when it was sealed. On a full
disk, a reader continues with what is there, and a tick without what it can do without (`MetadataStore.optional`).
"""

from ugro.control_plane.metadata_store.locks import LOCK_PATIENCE, RESIDENT_LOCK
from ugro.control_plane.metadata_store.store import MetadataStore

__all__ = ["LOCK_PATIENCE", "RESIDENT_LOCK", "MetadataStore"]
