"""What `ugro serve` saw a moment ago is shown without another look; anything else is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import AnswerPending, HostKeyChanged, NodeError, Unreachable
from ugro.common.models.node import NodeView, Silence
from ugro.control_plane.metadata_store import RESIDENT_LOCK, MetadataStore
from ugro.control_plane.resource_manager.monitor import silences
from ugro.control_plane.resource_manager.observation import (
    FRESH_SECONDS,
    Observation,
    fresh_or_remembered,
    last_look,
    seen_by_resident,
)
from ugro.control_plane.scheduler.queue import read_capacities
from ugro.testing import builders

NOW = 1000.0
NODES = {name: NodeConfig(name=name, address=f"10.0.0.{number}") for number, name in enumerate(("gpu1", "gpu2"))}
INVENTORY = Inventory(nodes=NODES)


def view(node: str, seen_at: float = NOW - 1) -> NodeView:
    return builders.node_view(node, seen_at=seen_at)


@pytest.fixture
def store(tmp_path: Path) -> MetadataStore:
    store = MetadataStore(tmp_path)
    store.config.remember_nodes([view("gpu1"), view("gpu2")], NODES.values(), {})
    return store


def test_what_the_resident_saw_is_taken(store: MetadataStore) -> None:
    with store.exclusive(RESIDENT_LOCK, 0):
        seen = seen_by_resident(store, INVENTORY, NOW)
    assert seen and seen.views == {"gpu1": view("gpu1"), "gpu2": view("gpu2")}


def test_without_a_resident_there_is_a_look(store: MetadataStore) -> None:
    assert seen_by_resident(store, INVENTORY, NOW) is None
    with store.exclusive(RESIDENT_LOCK, 0):
        pass
    assert seen_by_resident(store, INVENTORY, NOW) is None


def test_asking_who_is_there_keeps_nobody_away(store: MetadataStore) -> None:
    assert not store.is_locked(RESIDENT_LOCK)
    with store.exclusive(RESIDENT_LOCK, 0):
        assert store.is_locked(RESIDENT_LOCK) and store.is_locked(RESIDENT_LOCK)
    assert not store.is_locked(RESIDENT_LOCK)


@pytest.mark.parametrize("age", [FRESH_SECONDS + 0.1, -0.1])
def test_an_old_look_or_one_of_the_future_does_not_do(store: MetadataStore, age: float) -> None:
    store.config.remember_nodes([view("gpu2", NOW - age)], (), {})
    with store.exclusive(RESIDENT_LOCK, 0):
        assert seen_by_resident(store, INVENTORY, NOW) is None


def test_an_edited_inventory_is_looked_at(store: MetadataStore) -> None:
    moved = Inventory(nodes=NODES | {"gpu2": NODES["gpu2"].model_copy(update={"address": "10.0.0.9"})})
    more = Inventory(nodes=NODES | {"gpu3": NodeConfig(name="gpu3", address="10.0.0.3")})
    with store.exclusive(RESIDENT_LOCK, 0):
        assert seen_by_resident(store, moved, NOW) is None
        assert seen_by_resident(store, more, NOW) is None


def test_a_node_that_the_resident_finds_silent_is_silent(store: MetadataStore) -> None:
    store.config.remember_nodes([view("gpu1")], (), {"gpu2": Silence(since=NOW - 90, seen_at=NOW - 1)})
    with store.exclusive(RESIDENT_LOCK, 0):
        seen = seen_by_resident(store, INVENTORY, NOW)
    assert seen and isinstance(seen.views["gpu2"], NodeError) and "for 1m 30s" in seen.views["gpu2"].message
    views, errors = fresh_or_remembered(store, seen)
    assert views == {"gpu1": view("gpu1"), "gpu2": view("gpu2")}
    assert errors == {"gpu1": None, "gpu2": seen.views["gpu2"]}


def test_why_a_node_is_silent_is_kept_with_what_would_help(store: MetadataStore) -> None:
    told = HostKeyChanged("gpu2", "THE HOST KEY HAS CHANGED", "ugro trust gpu2 --replace")
    quiet = silences({}, {"gpu1": view("gpu1"), "gpu2": told}, NOW)
    store.config.remember_nodes([view("gpu1")], (), quiet)
    kept = last_look(store, INVENTORY, NOW + 60)
    error = kept["gpu2"]
    assert kept["gpu1"] == view("gpu1") and isinstance(error, HostKeyChanged) and error.hint == told.hint
    assert error.problem == "has not answered for 1m 00s: THE HOST KEY HAS CHANGED"
    capacity = read_capacities(store, INVENTORY, [], kept)["gpu2"]
    assert capacity.refusal == told.message, "as it was told at first"
    assert read_capacities(store, INVENTORY, [], {"gpu2": Unreachable("gpu2", "slow")})["gpu2"].silent


def test_a_look_that_was_too_short_shows_what_the_last_tick_found(store: MetadataStore) -> None:
    told = HostKeyChanged("gpu2", "THE HOST KEY HAS CHANGED", "ugro trust gpu2 --replace")
    store.config.remember_nodes([view("gpu1")], (), silences({}, {"gpu2": told}, NOW))
    slow = AnswerPending("gpu2", "no answer within 1.7 s", "it may only be slow: `ugro check` waits longer")
    seen = Observation({"gpu1": AnswerPending("gpu1", "no answer within 1.7 s"), "gpu2": slow}, {}, NOW)
    views, errors = fresh_or_remembered(store, seen)
    known = errors["gpu2"]
    assert isinstance(known, HostKeyChanged) and (known.message, known.hint) == (told.message, told.hint)
    assert views["gpu1"] == view("gpu1") and errors["gpu1"] == seen.views["gpu1"], "of it nothing bad is known"
    assert read_capacities(store, INVENTORY, [], seen.views)["gpu2"].refusal == told.message
    refused = Unreachable("gpu2", "refuses connections")
    assert fresh_or_remembered(store, Observation({"gpu2": refused}, {}, NOW))[1]["gpu2"] == refused, "the newer word"
