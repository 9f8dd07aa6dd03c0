"""What the routes answer, with a resident controller behind them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

from ugro import __version__
from ugro.common.models.job_state import JobState
from ugro.service.schemas.web import Role

from .conftest import Answer, Served, ask

STAYS = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
PAGE = {"host": "127.0.0.1:8470", "origin": "http://127.0.0.1:8470", "x-ugro": "1"}


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


async def browser(served: Served, role: Role = Role.OPERATE) -> dict[str, str]:
    """Log in by a one-time code; return the headers of a page."""
    assert served.serving.web
    answer = await login(served, served.serving.web.mint(role))
    assert answer.status == 200 and answer.json["role"] == role
    return PAGE | {"cookie": (answer.header("set-cookie") or "").partition(";")[0]}


async def login(served: Served, code: str, **headers: str) -> Answer:
    body = json.dumps({"code": code}).encode()
    return await ask(served.app, "POST", "/api/v1/login", PAGE | {"content-type": "application/json"} | headers, body)


async def test_shows_what_the_commands_print(served: Served) -> None:
    failed = await served.until(served.submit("raise SystemExit(3)\n", name="first").id, JobState.FAILED)
    held = served.submit(STAYS, hold=True)
    status = (await served.get("/status")).json
    assert [node["name"] for node in status["nodes"]] == ["here"] and status["attended"]
    assert [job["id"] for job in status["jobs"]] == [failed.id, held.id]
    assert (await served.get("/jobs")).json == status["jobs"]
    assert [job["id"] for job in (await served.get("/jobs?state=held")).json] == [held.id]
    assert (await served.get("/jobs?since=2026-01-01&name=fir*&all=true")).json[0]["id"] == failed.id
    one = (await served.get("/jobs/first")).json
    assert one["id"] == failed.id and one["first_failure"]["exit_code"] == 3
    assert (await served.get(f"/jobs/{failed.id}/events")).json[0]["kind"] == "submitted"
    assert (await served.get(f"/jobs/{failed.id}/checkpoints")).json == []
    assert (await served.get(f"/jobs/{failed.id}/explain")).json["cause"]
    assert (await served.get(f"/jobs/{held.id}/why")).json["reasons"] == ["held until it is released"]
    assert (await served.get("/nodes")).json[0]["reachable"]
    assert (await served.get("/nodes/here/history?since=2h")).json == []
    assert (await served.get("/events?all=true&node=here")).json[0]["node"] == "here"
    assert (await served.get("/proposals")).status == 200
    session = (await served.get("/session")).json
    assert session == {"role": "operate", "browser": False, "launch": True, "version": __version__}


async def test_a_log_that_is_only_on_its_node_comes_as_a_file(served: Served) -> None:
    job = await served.until(served.submit("for i in range(9): print(f'{i}' * 70_000)\n").id, JobState.SUCCEEDED)
    copy = served.store.jobs.files(job.id).logs(1) / "rank-0.log"
    copy.unlink(missing_ok=True)
    log = await served.get(f"/jobs/{job.id}/logs/raw?attempt=1")
    assert log.body == b"".join(b"%d" % i * 70_000 + b"\n" for i in range(9))


async def test_shows_logs_by_line_and_finds_in_them(served: Served) -> None:
    text = "for i in range(500): print(f'step={i} loss={1 / (i + 1)}', flush=True)\nraise SystemExit(3)\n"
    job = await served.until(served.submit(text).id, JobState.FAILED)
    last = (await served.get(f"/jobs/{job.id}/logs?count=2")).json
    assert last["lines"] == 500 and [line["number"] for line in last["shown"]] == [499, 500]
    page = (await served.get(f"/jobs/{job.id}/logs?direction=forward&from_line=10&count=3")).json
    assert [line["text"].partition(" ")[0] for line in page["shown"]] == ["step=9", "step=10", "step=11"]
    found = (await served.get(f"/jobs/{job.id}/logs/search?query=step%3D12&limit=2")).json
    assert [hit["number"] for hit in found["hits"]] == [13, 121] and found["next_offset"]
    assert code(await served.get(f"/jobs/{job.id}/logs?rank=7"))[0] == 400
    assert code(await served.get(f"/jobs/{job.id}/logs?count=0"))[0] == 422
    assert code(await served.get(f"/jobs/{job.id}/logs/search?query=(&regex=true"))[0] == 400
    log = await served.get(f"/jobs/{job.id}/logs/raw")
    assert log.body == served.store.jobs.files(job.id).logs(1).joinpath("rank-0.log").read_bytes()
    assert log.header("content-disposition") == f'attachment; filename="{job.id}-attempt-1-rank-0.log"'
    assert (log.header("content-type") or "").startswith("text/plain")
    for wrong in ("rank=7", "attempt=2"):
        assert code(await served.get(f"/jobs/{job.id}/logs/raw?{wrong}"))[0] == 400
    assert code(await served.get("/jobs/job-999/logs/raw"))[0] == 404
    metrics = (await served.get(f"/jobs/{job.id}/metrics?names=loss&pixels=50")).json
    assert metrics["id"] == job.id and [one["name"] for one in metrics["series"]] in ([], ["loss"])
    assert code(await served.get(f"/jobs/{job.id}/metrics?x=sideways"))[0] == 422


async def test_masks_secrets_and_lists_their_names(served: Served) -> None:
    served.store.secrets.set("TOKEN", "hf_abcdefgh")
    [one] = (await served.get("/secrets")).json
    assert one["name"] == "TOKEN" and set(one) == {"name", "set_at"}
    assert (await served.post("/secrets", {"name": "A", "value": "b"})).status == 405
    text = "import os\nprint('x' * 262_140 + os.environ['TOKEN'])\nraise ValueError(os.environ['TOKEN'])\n"
    job = await served.until(served.submit(text, secrets=("TOKEN",)).id, JobState.FAILED)
    log = await served.get(f"/jobs/{job.id}/logs/raw")
    assert b"x****\nTraceback" in log.body and log.body.endswith(b"ValueError: ****\n") and b"hf_" not in log.body
    for path in ("", "/explain", "/events", "/logs", "/logs/search?query=hf_"):
        found = await served.get(f"/jobs/{job.id}{path}")
        assert found.status == 200 and b"hf_" not in found.body and b"****" in found.body, path
    planned = await served.post("/jobs", {"like": job.id, "arguments": "--token hf_abcdefgh"})
    assert planned.status == 409 and b"hf_" not in planned.body
    async with contextlib.aclosing(served.web.serving.board.watch(f"job:{job.id}")) as updates:
        assert "hf_" not in (state := await anext(updates)).text and "ValueError: ****" in state.text


async def test_says_what_is_wrong_in_json(served: Served) -> None:
    assert code(await served.get("/jobs/nosuch"))[0] == 404
    assert code(await served.get("/jobs/..%2f..%2ftoken"))[0] == 404
    assert code(await served.get("/jobs/../../token"))[0] == 404
    assert code(await served.get("/nodes/there/history"))[0] == 404
    assert code(await served.post("/nodes/there/drain", {"reason": "x"}))[0] == 404
    odd = await served.get("/jobs?state=odd")
    assert code(odd) == (422, "malformed")
    assert odd.json["error"]["message"].startswith("query.state.0: ")
    assert odd.json["error"]["message"].endswith(" or 'cancelled' is expected")
    assert code(await served.get("/jobs?since=whenever")) == (422, "malformed")
    unknown = await served.get("/jobs/job-001/logs?start=5&count=3&begin=1")
    assert unknown.status == 400
    assert unknown.json["error"]["message"] == "/api/v1/jobs/job-001/logs has no parameter `start`, `begin`"
    assert "`rank`, `attempt`, `from_line`, `count`, `direction`" in unknown.json["error"]["hint"]
    assert (await served.get("/status?all=true")).status == 200
    assert code(await served.get("/status?everything=true"))[0] == 400, "what counts is its name in the query"
    assert "it has none" in (await served.get("/session?x=1")).json["error"]["hint"]
    assert code(await served.get("/nosuch")) == (404, "not_found")
    assert code(await served.post("/status")) == (405, "method_not_allowed")
    bodies: list[tuple[Any, str]] = [
        ([], "body: keys with values are expected"),
        ({"reason": 5}, "body.reason: text is expected"),
        ({"reason": ""}, "body.reason: text is expected"),
        ({"reason": "x", "more": 1}, "body.more: unknown key"),
        (None, "body: is missing"),
        ("text", "body: keys with values are expected"),
    ]
    for body, said in bodies:
        answer = await served.post("/nodes/here/drain", body)
        assert (code(answer), answer.json["error"]["message"]) == ((422, "malformed"), said), body
    assert code(await served.post("/nodes/here/drain", {"reason": "x"}, content_type="text/plain"))[0] == 422


async def test_a_name_that_no_file_can_have_is_one_that_is_not_there(served: Served, tmp_path: Path) -> None:
    answer = await served.post("/jobs", {"spec": {"script": "f" * 100_000, "workdir": str(tmp_path)}})
    assert answer.status == 400 and answer.json["error"]["message"].startswith(f"there is no script '{'f' * 255}…' in ")


async def test_reports_a_bug_without_its_traceback(served: Served, monkeypatch: Any) -> None:
    monkeypatch.setattr("ugro.service.queries.status", lambda *_: 1 / 0)
    answer = await served.get("/status")
    assert code(answer) == (500, "internal") and "Zero" in answer.json["error"]["message"]
    assert b"Traceback" not in answer.body and "line" not in answer.json["error"]["message"]


async def test_changes_what_waits_and_notes_who_did_it(served: Served) -> None:
    job = served.submit(STAYS, hold=True)
    page = await browser(served)
    assert (await served.post(f"/jobs/{job.id}/priority", {"priority": 5})).json["priority"] == 5
    body = json.dumps({"attempt": 1, "reason": "later"}).encode()
    headers = page | {"content-type": "application/json"}
    answer = await ask(served.app, "POST", f"/api/v1/jobs/{job.id}/release", headers, b'{"attempt":1}')
    assert answer.status == 200 and answer.json["state"] in ("queued", "starting", "running")
    assert code(await ask(served.app, "POST", f"/api/v1/jobs/{job.id}/release", headers, body))[0] == 422
    assert (await served.post(f"/jobs/{job.id}/cancel")).json["cancel_requested"]
    await served.until(job.id, JobState.CANCELLED)
    asked = [event.message for event in served.store.timeline.of_job(job.id) if event.kind == "asked"]
    assert asked == [
        "priority 5, by a token (operate) from 127.0.0.1",
        "release, by a browser (operate) from 127.0.0.1",
        "cancel, by a token (operate) from 127.0.0.1",
    ]
    assert (await served.post("/nodes/here/drain", {"reason": "fans"})).json["drained"]
    assert not (await served.post("/nodes/here/undrain")).json["drained"]


async def test_refuses_acts_on_an_earlier_attempt(served: Served) -> None:
    job = served.submit(STAYS, hold=True)
    for act in ("cancel", "hold", "release", "resume", "checkpoint"):
        answer = await served.post(f"/jobs/{job.id}/{act}", {"attempt": 2})
        assert code(answer) == (409, "stale"), act
    assert served.store.jobs.job(job.id).wish is None
    assert not [event for event in served.store.timeline.of_job(job.id) if event.kind == "asked"]


async def test_a_key_is_one_act(served: Served) -> None:
    job = served.submit(STAYS, hold=True)
    sent = {"priority": 7}
    answers = await asyncio.gather(
        *(served.post(f"/jobs/{job.id}/priority", sent, idempotency_key="k1") for _ in range(4))
    )
    assert {answer.status for answer in answers} == {200} and len({answer.body for answer in answers}) == 1
    asked = [event for event in served.store.timeline.of_job(job.id) if event.kind == "asked"]
    assert len(asked) == 1
    other = await served.post(f"/jobs/{job.id}/priority", {"priority": 8}, idempotency_key="k1")
    assert code(other)[0] == 400 and served.store.jobs.job(job.id).priority == 7
    refused = await served.post(f"/jobs/{job.id}/priority", {"priority": 9, "attempt": 3}, idempotency_key="k2")
    assert code(refused) == (409, "stale")
    assert (await served.post(f"/jobs/{job.id}/priority", {"priority": 9}, idempotency_key="k2")).status == 200


async def test_resumes_once_the_plan_has_consent(served: Served) -> None:
    job = await served.until(served.submit("raise SystemExit(3)\n").id, JobState.FAILED)
    first = await served.post(f"/jobs/{job.id}/resume", {"attempt": 1, "step": 0})
    assert code(first) == (409, "consent_needed") and served.store.jobs.job(job.id).attempt == 1
    plan = first.json["plan"]
    assert plan["effects"]["attempt"] == 2 and plan["effects"]["begins"] == "from the beginning"
    answers = {question["id"]: True for question in plan["questions"]}
    body = {"attempt": 1, "step": 0, "answers": answers, "fingerprint": plan["fingerprint"]}
    wrong = body | {"fingerprint": {"parts": plan["fingerprint"]["parts"] | {"the weather": "x"}}}
    changed = await served.post(f"/jobs/{job.id}/resume", wrong)
    assert code(changed) == (409, "plan_changed") and changed.json["changed"] == ["the weather"]
    answer = await served.post(f"/jobs/{job.id}/resume", body)
    assert answer.status == 200 and answer.json["attempt"] == 2
    again = await served.post(f"/jobs/{job.id}/resume", body)
    assert again.status == 409, "a stale page resumes nothing"


async def test_approves_and_denies_what_is_proposed(served: Served) -> None:
    text = (
        "import sys\nprint('RuntimeError: NCCL error: unhandled system error', file=sys.stderr)\nraise SystemExit(1)\n"
    )
    job = await served.until(served.submit(text).id, JobState.FAILED)
    if job.id not in served.store.decisions.proposals():
        raise AssertionError("nothing is proposed about this failure")
    assert [one["job"] for one in (await served.get("/proposals")).json] == [job.id]
    assert code(await served.post(f"/jobs/{job.id}/deny", {"attempt": 2})) == (409, "stale")
    first = await served.post(f"/jobs/{job.id}/approve", {"attempt": 1})
    assert code(first) == (409, "consent_needed") and first.json["plan"]["effects"]["job"] == job.id
    fingerprint = first.json["plan"]["fingerprint"]
    unanswered = await served.post(f"/jobs/{job.id}/approve", {"fingerprint": fingerprint})
    assert unanswered.status == 400
    no = await served.post(f"/jobs/{job.id}/approve", {"fingerprint": fingerprint, "answers": {"approve": False}})
    assert code(no) == (409, "declined")
    yes = {"fingerprint": fingerprint, "answers": {"approve": True}}
    assert (await served.post(f"/jobs/{job.id}/approve", yes)).json["attempt"] == 2
    assert (await served.post(f"/jobs/{job.id}/approve", yes)).status in (400, 409)
    asked = [event.message for event in served.store.timeline.of_job(job.id) if event.kind == "asked"]
    assert asked[-1] == "approve, by a token (operate) from 127.0.0.1"
    assert asked[:-1] and all("; not done: " in message for message in asked[:-1]), "no refusal looks like a change"


async def test_launches_with_consent_and_a_browser_only_where_that_is_allowed(served: Served) -> None:
    (served.project / "t.py").write_text(STAYS)
    body = {"spec": {"script": "t.py", "workdir": str(served.project), "hold": True, "name": "new"}}
    first = await served.post("/jobs", body)
    assert code(first) == (409, "consent_needed") and first.json["plan"]["effects"]["runs"] == "t.py"
    made = await served.post("/jobs", body | {"fingerprint": first.json["plan"]["fingerprint"]})
    assert made.status == 200 and made.json["id"] == "job-001" and made.json["state"] == "held"
    (served.project / "t.py").write_text("other\n")
    stale = await served.post("/jobs", body | {"fingerprint": first.json["plan"]["fingerprint"]})
    assert code(stale) == (409, "plan_changed")
    for wrong in ({}, {"spec": {"script": "t.py"}}, {"spec": body["spec"], "like": "job-001"}, {"like": "nosuch"}):
        assert (await served.post("/jobs", wrong)).status in (400, 404), wrong
    page = await browser(served) | {"content-type": "application/json"}
    again = {"like": "job-001", "name": "again", "arguments": "--lr 1e-4 'two words'"}
    refused = await ask(served.app, "POST", "/api/v1/jobs", page, json.dumps(again).encode())
    assert code(refused) == (403, "forbidden") and "launch: true" in refused.json["error"]["hint"]
    served.write_inventory("dashboard:\n  launch: true\n")
    async with asyncio.timeout(30):
        while not served.serving.settings.launch:
            await served.store.bus.beats(served.store.bus.beat)
    plan = await ask(served.app, "POST", "/api/v1/jobs", page, json.dumps(again).encode())
    assert code(plan) == (409, "consent_needed")
    act = json.dumps(again | {"fingerprint": plan.json["plan"]["fingerprint"]}).encode()
    answer = await ask(served.app, "POST", "/api/v1/jobs", page, act)
    assert answer.status == 200 and answer.json["command"] == ["t.py", "--lr", "1e-4", "two words"]
    code_of = served.store.jobs.files(answer.json["id"]).snapshot(1) / "t.py"
    assert code_of.read_text() == STAYS, "the code that the other one ran"


async def test_a_code_logs_in_once(served: Served) -> None:
    assert served.serving.web
    one = served.serving.web.mint(Role.VIEW)
    answer = await login(served, one)
    cookie = answer.header("set-cookie") or ""
    assert answer.json["role"] == "view" and "ugro-8470=" in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie and "Secure" not in cookie
    assert code(await login(served, one)) == (401, "not_logged_in"), "used up"
    assert code(await login(served, "nonsense")) == (401, "not_logged_in")
    assert code(await login(served, one, origin="http://evil.example"))[0] == 403
    assert (await login(served, served.token("token"))).json["role"] == "operate", "a token will do, too"
    late = served.serving.web.mint(Role.VIEW)
    served.serving.web._now = lambda: 1e12
    assert code(await login(served, late)) == (401, "not_logged_in"), "a minute later"
    for _ in range(12):
        last = await login(served, "guess")
    assert last.status == 429
    session = await ask(served.app, "GET", "/api/v1/session", PAGE | {"cookie": cookie.partition(";")[0]})
    assert session.json == {"role": "view", "browser": True, "launch": False, "version": __version__}


async def test_serves_the_page_and_its_files(served: Served) -> None:
    host = {"host": "localhost:8470"}
    page = await ask(served.app, "GET", "/", host)
    assert page.status == 200 and page.header("cache-control") == "no-store"
    assert (page.header("content-type") or "").startswith("text/html")
    names = re.findall(r'"(/static/[^"]+)"', page.body.decode())
    assert len(names) > 4 and all(name.startswith(f"/static/{__version__}-") for name in names)
    place = names[0].split("/")[2]
    for path in ("/static/nosuch.js", "/static/../token", "/static/%2e%2e/token", f"/static/{place}/../index.html"):
        assert (await ask(served.app, "GET", path, host)).status == 401, path
    for name in names:
        assert (await ask(served.app, "GET", name, host)).status == 200, name
    found = await ask(served.app, "GET", names[0], host)
    assert found.status == 200 and found.header("cache-control") == "public, max-age=31536000, immutable"
    assert (await ask(served.app, "GET", "/healthz", host)).json == {"status": "ok"}


async def test_describes_itself(served: Served) -> None:
    found = (await served.get("/openapi.json")).json
    assert {path.removeprefix("/api/v1") for path in found["paths"]} >= {
        *("/status", "/jobs", "/jobs/{job}", "/jobs/{job}/events", "/jobs/{job}/checkpoints", "/jobs/{job}/explain"),
        *(f"/jobs/{{job}}/{act}" for act in ("cancel", "hold", "release", "priority", "checkpoint")),
        *("/jobs/{job}/resume", "/jobs/{job}/approve", "/jobs/{job}/deny", "/nodes", "/nodes/{node}/history"),
        *("/nodes/{node}/drain", "/nodes/{node}/undrain", "/events", "/proposals", "/login", "/session", "/secrets"),
        *("/sweeps", "/sweeps/{sweep}", "/jobs/{job}/files", "/jobs/{job}/rerun"),
    }
    assert (await ask(served.app, "GET", "/docs", served.bearer)).status == 404
