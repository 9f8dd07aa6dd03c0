"""Reruns and edits over HTTP: planned, then done with consent; a browser only where that is allowed."""

from __future__ import annotations

import json

from .conftest import Answer, Served, ask
from .test_http import STAYS, browser, code


async def patch(served: Served, job: str, body: dict[str, object]) -> Answer:
    headers = served.bearer | {"content-type": "application/json"}
    return await ask(served.app, "PATCH", f"/api/v1/jobs/{job}", headers, json.dumps(body).encode())


async def test_runs_a_job_again_once_the_plan_has_consent(served: Served) -> None:
    job = served.submit(STAYS, name="lr-1", hold=True)
    asked = {"settings": {"lr": "2"}, "fields": {"hold": True}}
    first = await served.post("/jobs/@last/rerun", asked)
    assert code(first) == (409, "consent_needed")
    effects = first.json["plan"]["effects"]
    assert (effects["like"], effects["name"], effects["runs"]) == (job.id, "lr-1-r2", "t.py --lr 2")
    done = await served.post(f"/jobs/{job.id}/rerun", asked | {"fingerprint": first.json["plan"]["fingerprint"]})
    assert done.status == 200 and (done.json["id"], done.json["state"]) == ("job-002", "held")


async def test_edits_a_job_that_waits_and_refuses_a_plan_that_is_no_longer_true(served: Served) -> None:
    job = served.submit(STAYS, hold=True)
    asked = {"attempt": 1, "fields": {"priority": 4}}
    first = await patch(served, job.id, asked)
    assert code(first) == (409, "consent_needed")
    assert first.json["plan"]["effects"]["changes"] == [{"field": "priority", "before": "0", "after": "4"}]
    asked |= {"fingerprint": first.json["plan"]["fingerprint"]}
    done = await patch(served, job.id, asked)
    assert done.status == 200 and done.json["priority"] == 4 and len(done.json["changes"]) == 1
    again = await patch(served, job.id, asked | {"fields": {"priority": 6}})
    assert code(again) == (409, "plan_changed") and served.store.jobs.job(job.id).priority == 4
    kinds = [event.kind for event in served.store.timeline.of_job(job.id)]
    assert kinds == ["submitted", "edited", "asked", "asked"]
    assert code(await patch(served, job.id, {"fields": {"workdir": "/etc"}})) == (400, "input")
    assert code(await patch(served, job.id, {"attempt": 2})) == (409, "stale")


async def test_refuses_a_browser_that_may_not_say_what_runs(served: Served) -> None:
    job = served.submit(STAYS, hold=True)
    headers = await browser(served) | {"content-type": "application/json"}
    for method, path in (("POST", f"/api/v1/jobs/{job.id}/rerun"), ("PATCH", f"/api/v1/jobs/{job.id}")):
        refused = await ask(served.app, method, path, headers, b"{}")
        assert code(refused) == (403, "forbidden"), path
