"""Secrets through the service layer: set, listed, removed, needed by jobs, and masked in every answer."""

from __future__ import annotations

import json

import pytest
from door import Door
from pydantic import SecretStr

from ugro.common.errors import InputError, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job_state import JobState
from ugro.service.code import read_code
from ugro.service.schemas.explain import Explain
from ugro.service.schemas.launch import DraftLaunch, Launch, PlanLaunch, Rehearse
from ugro.service.schemas.logs import PageOfLog, ReadLogs, SearchLog
from ugro.service.schemas.queries import Events, ShowJob
from ugro.service.schemas.queue import Why
from ugro.service.schemas.secrets import ListSecrets, RemoveSecret, SetSecret

TOKEN = "hf_abcdefghijkl"
FAILS = "import os\nprint('token', os.environ['HF_TOKEN'])\nraise ValueError('bad token ' + os.environ['HF_TOKEN'])\n"


def put(door: Door, name: str = "HF_TOKEN", value: str = TOKEN) -> SetSecret:
    request = SetSecret(name=name, value=SecretStr(value))
    door.call(request)
    return request


def test_sets_lists_and_removes_secrets_and_shows_no_value(door: Door) -> None:
    assert TOKEN not in repr(put(door)) and TOKEN not in str(put(door))
    listed = door.call(ListSecrets())
    assert [one.name for one in listed.answer] == ["HF_TOKEN"] and TOKEN not in str(listed.as_json())
    assert door.call(SetSecret(name="B", value=SecretStr("abc"))).short
    assert door.call(RemoveSecret(name="B")).was_set
    with pytest.raises(InputError, match="the secret B is not set"):
        door.call(RemoveSecret(name="B"))
    with pytest.raises(InputError, match="is no name of a secret"):
        put(door, "../B")
    with pytest.raises(InputError, match="the value of B is empty"):
        put(door, "B", "")


def test_refuses_a_launch_without_its_secret(door: Door) -> None:
    (door.project / "t.py").write_text("")
    spec = JobSpec(script="t.py", workdir=str(door.project), secrets=("HF_TOKEN",))
    code = door.backend.bring(read_code(spec))
    for ask in (DraftLaunch(spec=spec), Rehearse(spec=spec), PlanLaunch(spec=spec, code=code)):
        with pytest.raises(InputError) as caught:
            door.call(ask)
        told = (caught.value.code, caught.value.message, caught.value.hint, caught.value.exit_code)
        assert told == ("secret_missing", "the secret HF_TOKEN is not set", "set it: ugro secret set HF_TOKEN", 2)


def test_keeps_a_job_pending_whose_secret_was_removed(door: Door) -> None:
    put(door)
    (door.project / "t.py").write_text("")
    spec = JobSpec(script="t.py", workdir=str(door.project), secrets=("T=HF_TOKEN",))
    plan = door.call(PlanLaunch(spec=spec, code=door.backend.bring(read_code(spec))))
    assert door.call(RemoveSecret(name="HF_TOKEN")).needed_by == ()
    with pytest.raises(InputError, match="the secret HF_TOKEN is not set"):
        door.call(PlanLaunch(spec=spec, code=plan.code))
    put(door)
    job = door.call(Launch(plan=plan, answers={}))
    assert door.call(RemoveSecret(name="HF_TOKEN")).needed_by == (job.id,)
    found = door.call(Why(job=job.id)).answer
    assert found.reasons == (
        "is unschedulable: the secret HF_TOKEN is not set; to start it: ugro secret set HF_TOKEN, "
        f"or cancel it: ugro cancel {job.id}",
    )
    put(door)
    door.until(door.store.jobs.job(job.id), JobState.SUCCEEDED)


def test_masks_values_in_answers_records_and_errors(door: Door) -> None:
    put(door)
    job = door.failed(FAILS, secrets=("HF_TOKEN",), args=(TOKEN,))
    asked = [Explain(job=job.id), ShowJob(job=job.id), Events(job=job.id), PageOfLog(job=job.id)]
    told = [str(door.call(request).as_json()) for request in (*asked, SearchLog(job=job.id, query="hf_"))]
    told += [str(item.as_json()) for item in door.stream(ReadLogs(job=job.id))]
    told += [json.dumps(notice.as_json()) for notice in door.told]
    assert not [text for text in told if TOKEN in text]
    assert all("token ****" in text for text in (told[0], told[3], told[4], told[5]))
    record = door.store.jobs.files(job.id).record.read_text()
    assert "bad token ****" in record and '"command"' in record
    assert TOKEN not in door.store.timeline.of_job(job.id).__repr__()
    assert TOKEN in door.store.jobs.files(job.id).spec.read_text()  # it is what the user typed
    with pytest.raises(UgroError) as caught:
        door.call(ShowJob(job=TOKEN))
    assert caught.value.message == "there is no job '****'"


def test_masks_values_in_what_a_setup_command_prints(door: Door) -> None:
    put(door)
    job = door.submit("", setup='echo "got $HF_TOKEN"; exit 1', secrets=("HF_TOKEN",))
    door.until(job, JobState.FAILED)
    told = [str(item.as_json()) for item in door.stream(ReadLogs(job=job.id, setup=True))]
    told.append(str(door.call(Explain(job=job.id)).as_json()))
    assert all("got ****" in text and TOKEN not in text for text in (told[0], told[-1]))
    assert TOKEN not in "".join(told)


def test_sends_what_the_user_typed_back_as_it_is(door: Door) -> None:
    put(door)
    (door.project / "t.py").write_text("")
    spec = JobSpec(script="t.py", workdir=str(door.project), args=("--token", TOKEN), env={"HF_TOKEN": "x"})
    draft = door.call(DraftLaunch(spec=spec))
    assert (draft.spec.args[1], draft.exposed) == (TOKEN, ("HF_TOKEN",))
    [script] = door.call(Rehearse(spec=spec)).scripts
    assert "t.py --token '****'" in script.launch_sh or "t.py --token ****" in script.launch_sh
