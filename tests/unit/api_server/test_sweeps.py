"""Sweeps over HTTP: planned, launched with consent, compared; a browser only where that is allowed."""

from __future__ import annotations

import json

from .conftest import Served, ask
from .test_http import STAYS, browser, code


async def test_launches_a_sweep_once_the_plan_has_consent(served: Served) -> None:
    (served.project / "t.py").write_text(STAYS)
    spec = {"script": "t.py", "workdir": str(served.project), "hold": True, "sweep": {"lr": [1, 2]}, "name": "rates"}
    first = await served.post("/sweeps", {"spec": spec})
    assert code(first) == (409, "consent_needed") and first.json["plan"]["effects"]["jobs"] == 2
    done = await served.post("/sweeps", {"spec": spec, "fingerprint": first.json["plan"]["fingerprint"]})
    assert done.status == 200 and done.json["id"] == "sweep-001"
    assert [(job["name"], job["values"]) for job in done.json["jobs"]] == [
        ("rates-1", {"lr": "1"}),
        ("rates-2", {"lr": "2"}),
    ]
    shown = await served.get("/sweeps/sweep-001")
    assert shown.json == done.json and (await served.get("/jobs/job-002")).json["sweep"]["index"] == 2
    assert (await served.get("/sweeps/sweep-009")).status == 404
    assert code(await served.get("/sweeps/sweep-001?metric=loss"))[1] == "input"


async def test_refuses_what_is_no_sweep_and_who_may_not_launch(served: Served) -> None:
    spec = {"script": "t.py", "workdir": ".", "sweep": {"lr": "1..1000000"}}
    assert (await served.post("/sweeps", {"spec": spec})).status == 422
    assert code(await served.post("/sweeps", {"spec": spec | {"sweep": {"lr": [1]}}})) == (400, "input")
    headers = await browser(served) | {"content-type": "application/json"}
    body = json.dumps({"spec": spec | {"sweep": {}}}).encode()
    assert code(await ask(served.app, "POST", "/api/v1/sweeps", headers, body)) == (403, "forbidden")
