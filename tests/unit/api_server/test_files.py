"""Files of jobs over HTTP: what nodes hold, and the outputs that are on the master."""

from __future__ import annotations

import asyncio

from ugro.common.models.job_state import JobState

from .conftest import Served, ask

HOST = {"host": "127.0.0.1:8470"}

HOSTILE = "out/gpj.\u202eexe\n<b>"
"""A name that turns its end around, breaks the line and is markup."""

WRITES = f"""\
import os
os.mkdir("out")
open("out/a b.bin", "wb").write(bytes(range(256)) * 2000)
os.symlink("/etc/passwd", "out/link")
open({HOSTILE!r}, "w").write("x")
"""


async def test_lists_files_and_gives_outputs_as_files(served: Served) -> None:
    job = await served.until(served.submit(WRITES, outputs=["out"]).id, JobState.SUCCEEDED)
    listed = (await served.get(f"/jobs/{job.id}/files?path=out")).json
    assert [one["path"] for one in listed["nodes"][0]["files"]] == ["out/a b.bin", HOSTILE, "out/link"]
    cut = (await served.get(f"/jobs/{job.id}/files?path=out&limit=1")).json["nodes"][0]
    assert ([one["path"] for one in cut["files"]], cut["beyond"]) == (["out/a b.bin"], 2)
    assert (await served.get(f"/jobs/{job.id}/files?limit=0")).status == 422
    assert (await served.get(f"/jobs/{job.id}/files?path=../x")).status == 400
    assert (await served.get("/jobs/job-999/files")).status == 404
    async with asyncio.timeout(30):
        while (beat := served.store.bus.beat, served.store.outputs.owed())[1]:
            await served.store.bus.beats(beat)
    assert (await served.get(f"/jobs/{job.id}")).json["outputs"]["state"] == "here"
    found = await served.get(f"/jobs/{job.id}/files/out/a b.bin")
    assert found.status == 200 and found.body == bytes(range(256)) * 2000
    assert found.header("content-disposition") == "attachment; filename*=UTF-8''a%20b.bin"
    assert found.header("content-type") == "application/octet-stream"
    assert found.header("x-content-type-options") == "nosniff" and found.header("content-length") == "512000"
    brought = (await served.get(f"/jobs/{job.id}/outputs")).json
    assert [(one["path"], one["bytes"]) for one in brought["files"]] == [("out/a b.bin", 512000), (HOSTILE, 1)]
    odd = await served.get(f"/jobs/{job.id}/files/{HOSTILE}")
    assert odd.body == b"x" and odd.header("content-type") == "application/octet-stream"
    assert odd.header("content-disposition") == "attachment; filename*=UTF-8''gpj._exe_%3Cb%3E"
    for path in ("files/out/a b.bin", "files", "outputs"):
        assert (await ask(served.app, "GET", f"/api/v1/jobs/{job.id}/{path}", HOST)).status == 401
    folder = served.store.jobs.files(job.id).outputs
    (folder / "out/link").symlink_to("/etc/passwd")
    for path in ("out/link", "out", "out/no", "../job.json", "/etc/passwd", "out//..//x", ""):
        refused = await served.get(f"/jobs/{job.id}/files/{path}")
        assert refused.status in (307, 400) and b"root:" not in refused.body, path
