"""What shells complete, through the service layer."""

from __future__ import annotations

import pytest
from door import Door

from ugro.common.errors import InventoryError
from ugro.common.models.drain import Drain
from ugro.service.schemas.completion import CompleteJobs, CompleteNodes

FAILS = "raise SystemExit('enough')"


def test_offers_jobs_by_what_a_command_accepts(door: Door) -> None:
    ended = door.failed(FAILS)
    held = door.submit(FAILS, hold=True, name="demo")

    def words(command: str | None, *given: str) -> tuple[str, ...]:
        return door.call(CompleteJobs(command=command, given=given)).words

    assert set(words("logs")) == {ended.id, ended.name, held.id, "demo", "@last", "@last-failed"}
    assert set(words("release")) == {held.id, "demo", "@last"} and set(words(None)) == {held.id, "demo"}
    assert set(words("rm")) == {ended.id, ended.name, "@last-failed"} and words("rm", ended.id) == ()
    assert words("release", "demo") == ()
    assert not door.context.is_open


def test_offers_nodes_and_drained_ones(door: Door) -> None:
    assert door.call(CompleteNodes()).words == ("here",)
    assert door.call(CompleteNodes(drained=True)).words == ()
    door.store.config.drain(Drain(node="here", reason="fan", since=1.0))
    assert door.call(CompleteNodes(drained=True)).words == ("here",)


def test_offers_nothing_where_the_inventory_is_broken(door: Door) -> None:
    door.context.inventory.path.write_text("nodes: 7\n")
    del door.context.inventory
    with pytest.raises(InventoryError):
        door.call(CompleteNodes())
