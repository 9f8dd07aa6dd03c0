"""Drains of nodes that left the inventory: ended when the node is back, unless the user drained it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ugro.common.config import Inventory, NodeConfig
from ugro.common.files import append_line
from ugro.common.job_spec import JobSpec
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.drain import Drain, DrainOrigin
from ugro.common.models.event_kind import EventKind
from ugro.control_plane.controller.node_watch import drain_departed
from ugro.control_plane.metadata_store import MetadataStore

WORDS = "it is not in the inventory any more"
A, B = NodeConfig(name="a", address="10.0.0.1"), NodeConfig(name="b", address="10.0.0.2")
PRESENT = Inventory(nodes={"a": A, "b": B})
DEPARTED = Inventory(nodes={"a": A}).with_departed({"b": B}, ["b"])


def origins(home: Path) -> dict[str, DrainOrigin]:
    return {node: drain.origin for node, drain in MetadataStore(home).config.drains().items()}


def with_index(home: Path) -> MetadataStore:
    """A state directory whose `cluster.json` stands for all there is, as after a first submission."""
    store = MetadataStore(home)
    store.jobs.submit(
        store.jobs.reserve(), JobSpec(script="t.py"), CodeVersion(directory="/w", files=1, size_bytes=1), 1.0
    )
    return store


def test_drains_a_node_that_left_the_inventory_until_it_is_back(tmp_path: Path) -> None:
    store = with_index(tmp_path)
    drain_departed(store, DEPARTED)
    assert origins(tmp_path) == {"b": DrainOrigin.INVENTORY}
    drain_departed(store, DEPARTED)
    drain_departed(store, PRESENT)
    assert origins(tmp_path) == {}
    kinds = [event.kind for event in store.timeline.of_cluster() if event.node]
    assert kinds == [EventKind.DRAINED, EventKind.UNDRAINED], "told once"


def test_keeps_the_drain_of_a_person_who_gave_the_same_words(tmp_path: Path) -> None:
    store = with_index(tmp_path)
    store.config.drain(Drain(node="b", reason=WORDS, since=1.0))
    drain_departed(store, DEPARTED)
    drain_departed(store, PRESENT)
    assert origins(tmp_path) == {"b": DrainOrigin.PERSON}


@pytest.mark.parametrize("origin", DrainOrigin)
def test_takes_the_origin_from_the_timeline_where_the_cluster_file_is_lost(tmp_path: Path, origin: DrainOrigin) -> None:
    with_index(tmp_path).config.drain(Drain(node="b", reason=WORDS, since=1.0, origin=origin))
    for path in tmp_path.glob("cluster.json*"):
        path.unlink()
    assert origins(tmp_path) == {"b": origin}
    MetadataStore(tmp_path).rebuild()
    assert origins(tmp_path) == {"b": origin}


@pytest.mark.parametrize(("words", "origin"), [(WORDS, DrainOrigin.INVENTORY), ("new fan", DrainOrigin.PERSON)])
def test_knows_the_drains_of_an_earlier_ugro_by_their_words(tmp_path: Path, words: str, origin: DrainOrigin) -> None:
    store = with_index(tmp_path)
    store.config.drain(Drain(node="b", reason=words, since=1.0))
    path = tmp_path / "cluster.json"
    tables = json.loads(path.read_text())
    for row in tables["drains"].values():
        del row["origin"]
    path.write_text(json.dumps(tables))
    assert origins(tmp_path) == {"b": origin}
    drain_departed(MetadataStore(tmp_path), PRESENT)
    assert origins(tmp_path) == ({} if origin is DrainOrigin.INVENTORY else {"b": origin})


@pytest.mark.parametrize(("words", "origin"), [(WORDS, DrainOrigin.INVENTORY), ("new fan", DrainOrigin.PERSON)])
def test_knows_the_events_of_an_earlier_ugro_by_their_words(tmp_path: Path, words: str, origin: DrainOrigin) -> None:
    event = {"at": 1.0, "job": "", "node": "b", "kind": "drained", "message": words, "noted": True}
    append_line(tmp_path / "events.jsonl", json.dumps(event))
    assert origins(tmp_path) == {"b": origin}


def test_never_ends_a_drain_of_an_origin_that_only_a_newer_ugro_knows(tmp_path: Path) -> None:
    event = {"at": 1.0, "job": "", "node": "b", "kind": "drained", "message": WORDS, "noted": True, "origin": "heat"}
    append_line(tmp_path / "events.jsonl", json.dumps(event))
    store = MetadataStore(tmp_path)
    drain_departed(store, PRESENT)
    assert [drain.reason for drain in store.config.drains().values()] == [WORDS]
