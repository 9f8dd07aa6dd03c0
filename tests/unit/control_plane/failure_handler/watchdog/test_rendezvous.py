"""Ranks that never meet: when that is suspected, what is asked, and what is reported."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.unit.control_plane.scheduler.test_tracker import UNREAD, UP, job, rank, runs
from ugro.common.config import Inventory, NodeConfig
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job
from ugro.control_plane.failure_handler.watchdog.rendezvous import blamed, unmet_in_words, unreached, waits_to_meet
from ugro.nodes.pool import Pool

PLACED = {"master_addr": "10.0.0.1", "master_port": 29500}


def placed(**fields: object) -> Job:
    made = job().model_copy(update={"started_at": 100.0})
    assert made.placement
    return made.model_copy(update={"placement": made.placement.model_copy(update=PLACED | fields)})


@pytest.mark.parametrize(
    ("last", "now", "suspected"),
    [
        (UP, 161.0, True),
        (UP, 130.0, False),
        (replace(UP, ranks=(rank(2, alive=True),)), 161.0, False),
        (replace(UP, runner_alive=False, exit_code=1), 161.0, False),
        (UNREAD, 161.0, False),
    ],
)
def test_suspects_ranks_that_do_not_begin_within_a_minute(last: object, now: float, suspected: bool) -> None:
    assert waits_to_meet(placed(), runs(UP, UP, last), now) == suspected  # type: ignore[arg-type]


def test_a_job_on_one_node_has_nobody_to_meet() -> None:
    alone = placed()
    assert alone.placement
    shares = alone.placement.shares[:1]
    alone = alone.model_copy(update={"placement": alone.placement.model_copy(update={"shares": shares})})
    assert not waits_to_meet(alone, {"gpu-master": UP}, 999.0)


def test_tells_who_does_not_reach_the_meeting_point() -> None:
    words = unmet_in_words(placed(), [("gpu2", "no answer within 5 s")])
    assert "gpu2 does not reach 10.0.0.1:29500 (no answer within 5 s); see: ugro check --network" in words
    assert "every node reaches 10.0.0.1:29500" in unmet_in_words(placed(), [])


def test_blames_the_node_that_does_not_get_through() -> None:
    waited = FirstFailure(rank=None, node="gpu-master", cause="rendezvous_timeout", message="1/3 clients joined")
    found = blamed(waited, placed(), [("gpu2", "No route to host")])
    assert (found.node, found.cause) == ("gpu2", "rendezvous_timeout") and "No route to host" in found.message
    assert blamed(waited, placed(), []) == waited, "what nobody can show is not claimed"


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_asks_the_nodes_themselves(listening: int, unused_tcp_port: int) -> None:
    nodes = {
        name: NodeConfig(name=name, address="127.0.0.1", local=name == "gpu-master", python=sys.executable)
        for name in ("gpu-master", "gpu1", "gpu2")
    }
    from ugro.nodes.transport import LocalTransport

    async with Pool(Inventory(nodes=nodes), LocalTransport) as pool:
        for port in (listening, unused_tcp_port):  # refused is an answer, too
            assert await unreached(pool, placed(master_addr="127.0.0.1", master_port=port)) == []
        found = await unreached(pool, placed(master_addr="no.such.host.invalid"))
        assert [node for node, _ in found] == ["gpu1", "gpu2"] and all(why for _, why in found)
