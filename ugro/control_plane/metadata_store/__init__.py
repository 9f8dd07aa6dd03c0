"""The master's memory: plain JSON files that `cat` and `jq` read.

    $UGRO_HOME/
      lock                who acts now (flock; readable text)
      master              this master's id
      cluster.json        TinyDB: nodes (last view of each), jobs (index of the live ones), drains, meta
      finished.jsonl      index of the jobs that ended, one Summary a line
      events.jsonl        every change of every job and node (the older half in events.1.jsonl)
      jobs/job-001/       job.json (job.json.before: the copy before the last change), spec.json, events.jsonl,
                          metrics.jsonl, snapshot/, logs/<attempt>/

A job's folder is its truth; both indexes are rebuilt from the folders (`ugro state rebuild`). The order of writes: a
new job enters the index before its record is written, an ended one leaves it after its record and its summary are. So
a crash leaves at most an index entry too many, which the next tick settles.
"""

from ugro.control_plane.metadata_store.store import LOCK_PATIENCE, MetadataStore

__all__ = ["LOCK_PATIENCE", "MetadataStore"]
