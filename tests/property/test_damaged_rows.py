"""Damaged rows of `cluster.json`: named, put aside with the way back, and everything else continues."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.control_plane.metadata_store.test_metadata_store import ended, submit, ugro
from ugro.cli.main import cli
from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import RecordNewer, RecordUnreadable, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.drain import Drain
from ugro.common.models.metrics import GpuLook, GpuSample, MeasuredLink
from ugro.common.models.node import NodeView, Silence
from ugro.common.models.owed import Owed
from ugro.common.models.place import Place
from ugro.common.models.proposal import Proposal
from ugro.common.text import clock, moment
from ugro.control_plane.failure_handler.alerts.rounds import send_due
from ugro.control_plane.failure_handler.alerts.sender import Sender
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.gpu_history import GpuHistory
from ugro.control_plane.metadata_store.links import Links
from ugro.control_plane.metadata_store.rows import ROWS
from ugro.control_plane.resource_manager.observation import last_look
from ugro.control_plane.scheduler.queue import read_queue
from ugro.control_plane.scheduler.scheduling import placement_when_idle, why
from ugro.nodes.pool import Pool
from ugro.service.schemas.codec import iso
from ugro.testing import builders
from ugro.testing.cluster import controller_over
from ugro.testing.commands import Ugro
from ugro.testing.transport import Gone

NOW = time.time()
HERE = builders.this_machine(base_dir="/nonexistent/ugro", gpus=("RTX",))


def view(node: str) -> NodeView:
    gpu = builders.gpu(uuid=f"GPU-{node}", memory_total_mib=8192, memory_free_mib=8000)
    return builders.node_view(node, gpu, seen_at=NOW, clock_offset=0.1, cpu_count=4, load_1m=0.5)


def filled(home: Path) -> MetadataStore:
    """A state directory with two rows or more in every table."""
    store = MetadataStore(home)
    done, queued, other = ended(store, submit(store)), submit(store), submit(store)
    store.config.remember_nodes(
        [view("here"), view("gpu1")],
        [HERE, NodeConfig(name="gpu1", address="10.0.0.1")],
        {"gpu1": Silence(since=NOW, seen_at=NOW, code="unreachable", problem="does not answer")},
    )
    for node in ("gpu1", "gpu2"):
        store.config.drain(Drain(node=node, reason="fan", since=NOW))
    for job in (queued, other):
        store.decisions.remember_undecided(job.id)
        checkpoint = Checkpoint(step=1, kind="k", name="n", bytes=1, saved_at=NOW, places=(Place(node="a", path="/c"),))
        changes = (ArgumentChange(name="--bs", before="8", after="4"),)
        store.decisions.propose(
            Proposal(job=job.id, attempt=1, at=NOW, cause="hang", text="t", checkpoint=checkpoint, changes=changes)
        )
        store.cleanup.remember_leftovers(job, ["gpu1"])
        store.cleanup.remember_removals([Owed(job=job.id, uid=job.uid, config=HERE)])
        store.metrics.remember_speed(f"GPU-{job.id}", "RTX", 3.5)
    store.cleanup.remember_leftovers(done, ["gpu1", "gpu2"])
    store.outputs.owe(done.id)
    return store


def tables_of(home: Path) -> dict[str, Any]:
    tables: dict[str, Any] = json.loads((home / "cluster.json").read_text())
    return tables


def damage(home: Path, table: str, change: Callable[[dict[str, Any]], None]) -> Any:
    """Change the first row of a table. Returns it."""
    tables = tables_of(home)
    row = next(iter(tables[table].values()))
    change(row)
    (home / "cluster.json").write_text(json.dumps(tables))
    return row


def facts(store: MetadataStore) -> dict[str, dict[Any, Any]]:
    """All that the tables say, by table and by what it is about."""
    return {
        "live": {job.id: job for job in store.jobs.live()},
        "nodes": {**store.config.remembered_nodes()},
        "configs": {**store.config.remembered_configs()},
        "gpus": {**store.config.known_gpus()},
        "silences": {**store.config.silences()},
        "drains": {node: drain.reason for node, drain in store.config.drains().items()},
        "undecided": dict.fromkeys(store.decisions.undecided()),
        "proposals": {**store.decisions.proposals()},
        "leftovers": {**store.cleanup.leftovers()},
        "outputs": dict.fromkeys(store.outputs.owed()),
        "removals": {(one.job, one.config.name): one for one in store.cleanup.removals()},
        "speeds": {**store.metrics.speeds()},
    }


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> MetadataStore:
    return filled(tmp_path_factory.mktemp("sound"))


COLUMNS = {
    "drains": "node",
    "proposals": "at",
    "leftovers": "nodes",
    "outputs": "job",
    "speeds": "speed",
    "undecided": "job",
}


@pytest.mark.parametrize(("table", "column"), COLUMNS.items())
def test_a_row_without_a_key_is_named_put_aside_and_taken_back_once_it_is_corrected(
    tmp_path: Path, table: str, column: str
) -> None:
    before = facts(filled(tmp_path))
    lost: list[Any] = []
    row = damage(tmp_path, table, lambda row: lost.append(row.pop(column)))
    content = (tmp_path / "cluster.json").read_bytes()
    store, aside = MetadataStore(tmp_path), tmp_path / "cluster.json.aside"
    rest = facts(store)
    assert rest["live"] == before["live"] and rest["drains"].keys() == before["drains"].keys()
    assert len(rest[table]) == len(before[table]) - (table != "drains"), "drains are known from the timeline, too"
    (problem,) = store.problems()
    assert f"row '1' of the table {table!r} is damaged: {column}: is missing" in problem.message
    assert "ugro state rebuild" in problem.hint
    assert (tmp_path / "cluster.json").read_bytes() == content and not aside.exists(), "looking changes nothing"

    store.metrics.remember_speed("GPU-new", "RTX", 1.0)
    (line,) = aside.read_text().splitlines()
    assert json.loads(line)["row"] == row and json.loads(line)["table"] == table
    assert [event.kind for event in store.timeline.of_cluster()][-1] == "damaged"
    (problem,) = MetadataStore(tmp_path).problems()
    assert f"{aside} has 1 damaged row ({table})" in problem.message and "ugro state rebuild" in problem.hint
    assert MetadataStore(tmp_path).rebuild().mended == [], "not corrected so far"
    assert aside.read_text().splitlines() == [line] or json.loads(aside.read_text())["row"] == row

    aside.write_text(json.dumps(json.loads(line) | {"row": row | {column: lost[0]}}))
    mended = MetadataStore(tmp_path).rebuild().mended
    assert (table == "drains") or any(f"taken back into the table {table!r}" in words for words in mended)
    after = facts(MetadataStore(tmp_path))
    assert after.pop("speeds") == before.pop("speeds") | {"GPU-new": ("RTX", 1.0)} and after == before
    assert not aside.exists() and MetadataStore(tmp_path).problems() == []


@pytest.mark.parametrize("row", [None, 7, "x", [], {}, {"node": "gpu1"}, {"node": 7, "reason": "", "since": 1}])
def test_a_row_that_is_none_is_named(tmp_path: Path, row: Any) -> None:
    store = filled(tmp_path)
    tables = tables_of(tmp_path)
    tables["drains"]["1"] = row
    (tmp_path / "cluster.json").write_text(json.dumps(tables))
    for reader in (store, MetadataStore(tmp_path)):  # one that knew the row before, and one that did not
        assert set(reader.config.drains()) == {"gpu1", "gpu2"}
        assert any("row '1' of the table 'drains' is damaged" in problem.message for problem in reader.problems())


def test_of_a_node_only_what_is_damaged_is_lost(tmp_path: Path) -> None:
    filled(tmp_path)
    damage(tmp_path, "nodes", lambda row: row["view"].pop("boot_id"))
    store = MetadataStore(tmp_path)
    assert set(store.config.remembered_nodes()) == {"gpu1"} and set(store.config.remembered_configs()) == {
        "here",
        "gpu1",
    }
    store.config.remember_nodes([view("here")])
    assert set(MetadataStore(tmp_path).config.remembered_nodes()) == {"here", "gpu1"}
    assert "view.boot_id: is missing" in (tmp_path / "cluster.json.aside").read_text()
    MetadataStore(tmp_path).rebuild()
    assert MetadataStore(tmp_path).problems(), "until it is corrected, or let go of"


@pytest.mark.parametrize("table", [*ROWS])
@pytest.mark.parametrize("content", [[], 7, None, "x"])
def test_a_table_that_is_none_costs_only_itself(tmp_path: Path, table: str, content: Any) -> None:
    before = facts(filled(tmp_path))
    tables = tables_of(tmp_path) | {table: content}
    (tmp_path / "cluster.json").write_text(json.dumps(tables))
    store = MetadataStore(tmp_path)
    rest = facts(store)
    parts = {"configs", "gpus", "silences"} if table == "nodes" else set()
    assert {name for name in before if rest[name] != before[name]} <= {table, *parts}
    assert rest["live"] == before["live"] and rest["drains"].keys() == before["drains"].keys()
    assert any(f"the table {table!r} is damaged" in problem.message for problem in store.problems())
    job = submit(store)
    assert job.id in {live.id for live in MetadataStore(tmp_path).jobs.live()} >= before["live"].keys()
    assert json.loads((tmp_path / "cluster.json.aside").read_text())["row"] == content


def test_the_rows_of_a_table_that_is_a_list_are_taken_back(tmp_path: Path) -> None:
    before = facts(filled(tmp_path))
    tables = tables_of(tmp_path)
    tables["speeds"] = [*tables["speeds"].values(), {"uuid": 7}]
    (tmp_path / "cluster.json").write_text(json.dumps(tables))
    MetadataStore(tmp_path).rebuild()
    assert MetadataStore(tmp_path).metrics.speeds() == before["speeds"]
    assert json.loads((tmp_path / "cluster.json.aside").read_text())["row"] == {"uuid": 7}


@pytest.mark.parametrize(
    "top", ["", "[1]", "7", "null", '"x"', "{", '{"a": ' * 3000, "\x00", '{"jobs": 1' + "0" * 5000 + "}"]
)
def test_a_file_that_is_no_object_of_tables_is_named_with_the_way_back(tmp_path: Path, top: str) -> None:
    before = facts(filled(tmp_path))
    (tmp_path / "cluster.json").write_text(top)
    with pytest.raises(RecordUnreadable, match=r"cluster\.json is not a valid record") as caught:
        MetadataStore(tmp_path).jobs.live()
    assert "ugro state rebuild" in caught.value.hint
    MetadataStore(tmp_path).rebuild()
    assert facts(MetadataStore(tmp_path))["live"] == before["live"]


def test_rows_of_a_newer_ugro_are_no_damage_and_stay(tmp_path: Path) -> None:
    before = facts(filled(tmp_path))
    tables = tables_of(tmp_path)
    for table in tables:
        next(iter(tables[table].values()))["colour"] = "red"
    (tmp_path / "cluster.json").write_text(json.dumps(tables))
    store = MetadataStore(tmp_path)
    assert facts(store) == before
    assert all(isinstance(problem, RecordNewer) for problem in store.problems()) and len(store.problems()) == len(ROWS)
    store.metrics.remember_speed("GPU-new", "RTX", 1.0)
    assert not (tmp_path / "cluster.json.aside").exists()
    after = tables_of(tmp_path)
    assert all(next(iter(after[table].values()))["colour"] == "red" for table in after)
    tables["meta"]["1"]["schema_version"] = 99
    (tmp_path / "cluster.json").write_text(json.dumps(tables))
    for act in (
        MetadataStore(tmp_path).jobs.live,
        MetadataStore(tmp_path).rebuild,
        lambda: submit(MetadataStore(tmp_path)),
    ):
        with pytest.raises(RecordNewer):
            act()


@pytest.mark.parametrize("content", ["", " \n", "\x00\x01"])
def test_a_masters_id_that_is_broken_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "master").write_text(content)
    for ask in (MetadataStore(tmp_path).config.master, MetadataStore(tmp_path).config.known_master):
        with pytest.raises(RecordUnreadable, match="the id of this master is expected") as caught:
            ask()
        assert f"rm {tmp_path / 'master'}" in caught.value.hint


@pytest.mark.long
def test_commands_go_on_beside_damaged_rows_and_name_them(forked: Ugro, tmp_path: Path) -> None:
    filled(tmp_path)
    tables = tables_of(tmp_path)
    for table, rows in tables.items():
        if table != "meta":
            rows["99"] = {"x": 1} if table == "jobs" else {}
    (tmp_path / "cluster.json").write_text(json.dumps(tables))
    (tmp_path / "t.py").write_text("print(1)\n")
    for words in ("status --json", "status", "nodes", "why job-002", "events", "sweep", "status", "state rebuild"):
        done = ugro(forked, tmp_path, *words.split())
        assert done.returncode in (0, 3) and "Traceback" not in done.stderr, (words, done.stderr)
        if words in ("status", "sweep", "status --json"):
            assert "damaged" in done.stdout + done.stderr, words
    assert set(MetadataStore(tmp_path).config.drains()) == {"gpu1", "gpu2"}


# Any damage to any row

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(
        [10**400, 1e300, -1e300, "nan", "inf", "9" * 30, "\ud800", "", "\x1b[2J", "job-002", "here"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, Callable[[dict[str, Any]], tuple[str, str]]]:
    """A table, and what puts junk at any place in any row of it, or in the place of the row or its number."""
    table = draw(st.sampled_from([*ROWS]))
    junk, pick, deep = draw(JUNK), draw(st.integers(0, 99)), draw(st.integers(0, 4))
    how = draw(st.sampled_from(["replace", "remove", "add", "row", "key", "extra"]))

    def mutate(tables: dict[str, Any]) -> tuple[str, str]:
        rows = tables[table]
        key = [*rows][pick % len(rows)]
        if how == "row":
            rows[key] = junk
        elif how == "key":
            row = rows.pop(key)  # it takes no other row's place: that would be the damage of two
            rows[f"{junk}?" if str(junk) in rows else str(junk)] = row
        elif how == "extra":
            rows["77"] = junk
            key = "77"
        else:
            place: Any = rows[key]
            for _ in range(deep):
                inner = [
                    each
                    for each in (place.values() if isinstance(place, dict) else place)
                    if isinstance(each, (dict, list)) and each
                ]
                place = inner[pick % len(inner)] if inner else place
            if isinstance(place, list):
                place[0] = junk
            elif how == "add":
                place["colour" if junk else "\ud800"] = junk
            else:
                name = [*place][pick % len(place)]
                if how == "remove":
                    del place[name]
                else:
                    place[name] = junk
        return table, key

    return table, mutate


async def tick(store: MetadataStore, inventory: Inventory) -> None:
    controller = controller_over(store, inventory, Pool(inventory, Gone))
    try:
        await controller.complete()
    finally:
        await controller.close()


def look_at_everything(store: MetadataStore) -> dict[str, dict[Any, Any]]:
    inventory = Inventory(nodes={"here": HERE}).with_departed(store.config.remembered_configs(), ["gpu1"])
    live = store.jobs.live()
    views = last_look(store, inventory, NOW)
    queue = read_queue(store, inventory, live, views, NOW)
    for job in live:
        assert isinstance(why(queue, job.id), tuple)
    with contextlib.suppress(UgroError):  # a node of which nothing is known was not asked
        assert placement_when_idle(queue, JobSpec(script="t.py")).shares
    for problem in store.problems():
        assert problem.message and problem.hint and "Input should" not in problem.message
    return facts(store)


def survived(before: dict[str, dict[Any, Any]], after: dict[str, dict[Any, Any]], table: str, row: Any) -> None:
    """Everything but what the damaged row was about is as it was."""
    parts = {"nodes": {"nodes", "configs", "gpus", "silences"}}.get(table, {table})
    about = {row.get(column) for column in ("name", "node", "job", "uuid")}
    for name, known in before.items():
        if name not in parts:
            assert after[name] == known, name
        others = {key for key in known if key not in about and not (isinstance(key, tuple) and key[0] in about)}
        assert others <= after[name].keys(), name


def raw(home: Path) -> list[str]:
    return [json.dumps(json.loads(line)["row"]) for line in (home / "cluster.json.aside").read_text().splitlines()]


@given(mutations())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_damage_to_a_row_costs_more_than_that_row(
    tmp_path_factory: pytest.TempPathFactory, sound: MetadataStore, mutation: Any
) -> None:
    before, home = facts(sound), tmp_path_factory.mktemp("damaged") / "state"
    shutil.copytree(sound.home, home)
    tables = tables_of(home)
    was = copy.deepcopy(tables)
    table, key = mutation[1](tables)
    (home / "cluster.json").write_text(json.dumps(tables))
    row = was[table].get(key, {})
    try:
        store = MetadataStore(home)
        survived(before, look_at_everything(store), table, row)
        pending = [problem for problem in store.problems() if "counts as not there" in problem.message]
        asyncio.run(tick(MetadataStore(home), Inventory(nodes={"here": HERE})))
        MetadataStore(home).metrics.remember_speed("GPU-new", "RTX", 1.0)
        if pending:
            now = [json.dumps(each) for each in [*tables[table].values()]]
            assert raw(home) and set(raw(home)) <= set(now), "as it was"
            assert not any("counts as not there" in problem.message for problem in MetadataStore(home).problems())
        MetadataStore(home).rebuild()
        after = facts(MetadataStore(home))
        assert after["speeds"].pop("GPU-new") == ("RTX", 1.0)
        survived({name: before[name] for name in ("drains", "speeds")}, after, table, row)
        assert after["live"].keys() == before["live"].keys()
    except RecordNewer:
        assert table == "meta"
    except RecordUnreadable as error:  # what no JSON reader takes
        assert error.path == home / "cluster.json" and "nested too deeply" in error.message
    shutil.rmtree(home)


async def test_a_row_about_a_node_that_left_and_is_gone_fails_no_tick(tmp_path: Path, sound: MetadataStore) -> None:
    home = tmp_path / "state"
    shutil.copytree(sound.home, home)
    tables = tables_of(home)
    for row in tables["removals"].values():
        row["config"]["name"] = "left"
    (home / "cluster.json").write_text(json.dumps(tables))
    owed = MetadataStore(home).cleanup.removals()
    assert owed and all(one.config.name == "left" for one in owed)
    await tick(MetadataStore(home), Inventory(nodes={"here": HERE}))
    assert MetadataStore(home).cleanup.removals() == owed


@pytest.mark.long
@given(mutations())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_commands_show_no_traceback_whatever_row_is_damaged(
    tmp_path_factory: pytest.TempPathFactory, sound: MetadataStore, mutation: Any
) -> None:
    root = tmp_path_factory.mktemp("commands")
    shutil.copytree(sound.home, root / "state")
    tables = tables_of(root / "state")
    mutation[1](tables)
    (root / "state" / "cluster.json").write_text(json.dumps(tables))
    (root / "inventory.yaml").write_text(
        f"nodes:\n  here: {{address: 127.0.0.1, local: true, base_dir: {root}/node}}\n"
    )
    (root / "t.py").write_text("print(1)\n")
    environ = {"UGRO_HOME": str(root / "state"), "UGRO_INVENTORY": str(root / "inventory.yaml")}
    with contextlib.chdir(root):
        for words in (["status"], ["status", "--json"], ["launch", "t.py", "--dry-run"], ["nodes"], ["why", "job-002"]):
            done = CliRunner().invoke(cli, words, env=environ)
            assert done.exception is None or isinstance(done.exception, (SystemExit, UgroError)), done.exc_info
    shutil.rmtree(root)


# Lines

JUNK_LINES = (
    b"{", b"7", b"null", b"[]", b'"x"', b"\xff\xfe", b"\0", b"{}", b'{"at": 1e999}', b'{"at": NaN}', b'{"at": null}',
    b'{"at": ' + b"9" * 5000 + b"}", b"[" * 5000, b'{"at": 1.0, "colour": ' + b"1" * 5000 + b"}", b'{"id": 7}',
)  # fmt: skip


def test_damaged_lines_cost_only_themselves(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.metrics.add_samples("job-002", [GpuSample(at=NOW, rank=0)])
    history, links = GpuHistory(tmp_path), Links(tmp_path)
    history.add("here", [GpuLook(at=NOW, uuid="GPU-here")])
    links.remember([MeasuredLink(source="a", target="b", backend="gloo", latency_ms=1, gbit_per_s=1, measured_at=NOW)])

    def said() -> list[Any]:
        fresh = MetadataStore(tmp_path)
        lines = (
            fresh.timeline.of_cluster(),
            fresh.timeline.of_job("job-002"),
            list(fresh.metrics.samples("job-002")),
            fresh.metrics.last_sample("job-002"),
        )
        return [
            *lines,
            fresh.jobs.summaries(),
            fresh.jobs.recent(9),
            history.read("here", 0),
            links.all(),
            facts(fresh),
        ]

    before = said()
    files = [*tmp_path.rglob("*.jsonl")]
    assert {path.name for path in files} == {
        "events.jsonl",
        "metrics.jsonl",
        "finished.jsonl",
        "looks.jsonl",
        "raw.jsonl",
        "quarters.jsonl",
        "links.jsonl",
    }
    for path in files:
        short = [line for line in JUNK_LINES if len(line) < 100]  # the last line of all is looked for near the end
        path.write_bytes(b"\n".join([*JUNK_LINES, path.read_bytes(), *short, b""]))
    assert said() == before
    assert asyncio.run(tick(MetadataStore(tmp_path), Inventory(nodes={"here": HERE}))) is None


def test_times_that_no_calendar_has_are_shown(tmp_path: Path) -> None:
    for at in (1e17, -1e17, 1e300, 2.6e11):
        assert clock(at) and moment(at, NOW) and iso(at) in (None, iso(at))
    store = filled(tmp_path)
    store.timeline.note("here", "note", "x")
    path = tmp_path / "events.jsonl"
    path.write_text(path.read_text().replace(f'"at":{store.timeline.of_cluster()[-1].at}', '"at":1e300'))
    assert MetadataStore(tmp_path).timeline.of_cluster()[-1].at == 1e300
    for words in (["events"], ["events", "--json"], ["status"]):
        environ = {"UGRO_HOME": str(tmp_path), "UGRO_INVENTORY": str(tmp_path / "none.yaml")}
        done = CliRunner().invoke(cli, words, env=environ)
        assert done.exception is None or isinstance(done.exception, (SystemExit, UgroError)), done.exc_info


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"mark": 7}', '{"mark": {"at": "x"}}'])
async def test_a_broken_memory_of_alerts_is_put_aside(tmp_path: Path, content: str) -> None:
    store = MetadataStore(tmp_path)
    submit(store)
    (tmp_path / "alerts.yaml").write_text("channels: {}\n")
    (tmp_path / "alerts.json").write_text(content)
    await send_due(store, Sender())
    (aside,) = tmp_path.glob("alerts.json.broken-*")
    assert aside.read_text() == content and str(aside) in store.timeline.of_cluster()[-1].message
    await send_due(store, Sender())
    assert [event.kind for event in store.timeline.of_cluster()] == ["submitted", "damaged"]
