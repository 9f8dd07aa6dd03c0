"""Which address ranks meet at, from what nodes said. On real hosts: test_meeting_on_hosts.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import NodeError, NodeRefused
from ugro.engines.ssh.meeting import Meeting, NoAnswer, candidates, meet, mistake, settle
from ugro.nodes.pool import Pool
from ugro.nodes.remote.run.process_manager import PeerRoute, PreparedNode
from ugro.testing.builders import job, placement

ADDRESSES = ("127.0.0.1", "127.0.1.1", "::1", "10.0.0.1", "172.17.0.1", "100.64.0.1", "fe80::1", "fd00::1")


def said(*ways: PeerRoute, network: str = "", errors: dict[str, str] | None = None, **more: object) -> PreparedNode:
    facts = {"python": "3.11", "torch": "2", "network": network, "addresses": {}, "own": None, "port": 29500}
    return PreparedNode.model_validate(facts | {"ways": ways, "errors": errors or {}} | more)


def way(peer: str, address: str, interface: str = "eth0") -> PeerRoute:
    return PeerRoute(peer=peer, address=address, interface=interface)


def config(name: str, **more: object) -> NodeConfig:
    return NodeConfig.model_validate({"name": name, "address": "10.0.0.1"} | more)


def settled(host: PreparedNode, other: PreparedNode) -> Meeting:
    return settle(config("a"), host, candidates(config("a"), host, True)[0], 29500, {"b": (config("b"), other)})


def test_one_network_shares_its_loopback_and_nothing_else_does() -> None:
    """As nodes that are simulated on one machine do."""
    host, other = said(way("x", "127.0.0.1", "lo"), network="n"), said(way("127.0.0.1", "127.0.0.1", "lo"), network="n")
    assert settled(host, other).interfaces() == {"a": "lo", "b": "lo"}
    refused = settled(host, other.model_copy(update={"network": "m"})).ways["b"]
    assert isinstance(refused, NodeRefused) and "set 'train_address' of a in the inventory" in refused.hint
    unknown = settled(host.model_copy(update={"network": ""}), other.model_copy(update={"network": ""}))
    assert not unknown.found, "who says nothing shares nothing"


def test_the_refusals_are_those_at_the_likeliest_address() -> None:
    host = said(way("x", "127.0.0.1", "lo"), way("y", "10.0.0.1"), network="n")
    found = settled(host, said(errors={"10.0.0.1": "no answer\x1b[31m"}, network="m"))
    refused = found.ways["b"]
    assert isinstance(refused, NodeError) and refused.problem.endswith("would meet on a: no answer")
    assert "open the ports of a to b" in refused.hint
    nothing = settled(said(errors={"x": "Network is unreachable"}), said())
    assert str(nothing.ways["a"]).startswith("a: no way to x: Network is unreachable")


@given(
    st.lists(st.sampled_from(ADDRESSES), max_size=4),
    st.dictionaries(st.sampled_from(ADDRESSES), st.sampled_from((*ADDRESSES, "10.0.0.2")), max_size=8),
    st.booleans(),
)
def test_the_found_address_is_reached_by_all_and_means_one_machine(
    own: list[str], routes: dict[str, str], together: bool
) -> None:
    host = said(*(way(f"peer{number}", address) for number, address in enumerate(own)), network="n")
    other = said(*(way(peer, source) for peer, source in routes.items()), network="n" if together else "m")
    found = settled(host, other)
    if not found.found:
        return
    assert found.address in own and found.address in routes and not found.address.startswith("fe80")
    if not together:
        assert found.address not in ("127.0.0.1", "127.0.1.1", "::1")
        assert routes[found.address] != found.address, "the other node would meet itself"


def test_one_node_alone_meets_at_its_loopback_whatever_its_train_address_is() -> None:
    behind_nat = config("a", train_address="203.0.113.7")
    host = said(way("127.0.0.1", "127.0.0.1", "lo"), own="203.0.113.7", addresses={"127.0.0.1": "lo"})
    assert mistake(behind_nat, host, gang=False) is None
    (place,), others = candidates(behind_nat, host, gang=False)
    assert (place.address, others) == ("127.0.0.1", [])
    refused = mistake(behind_nat, host, gang=True)
    assert refused and "is none of its addresses" in refused.problem and "127.0.0.1 (lo)" in refused.hint


@pytest.mark.parametrize(
    "answers", [("none", "found"), ("none", "none", "found"), ("none", "none", "none"), ("wrong",)]
)
async def test_a_node_without_an_answer_is_asked_again_before_it_counts(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...]
) -> None:
    """A cable may be out at the moment of the check before a launch; what a node refuses stays refused."""
    answer = {
        "none": NoAnswer("b", "no answer"),
        "wrong": NodeRefused("b", "wrong"),
        "found": PeerRoute(peer="x", address="y", interface="e"),
    }
    asked = iter(answers)

    async def find(*_: object) -> Meeting:
        return Meeting({"a": answer["found"], "b": answer[next(asked)]}, "10.0.0.1", 29500)

    monkeypatch.setattr("ugro.engines.ssh.meeting.find_meeting", find)
    meeting = await meet(Pool(Inventory(nodes={"a": config("a")})), job(placement=placement("a", "b")), (0.0, 0.0))
    if answers[-1] == "found":
        assert meeting.found and meeting.address == "10.0.0.1"
    else:
        with pytest.raises(NodeRefused, match=r"b: (no answer|wrong)"):
            meeting.interfaces()
    assert list(asked) == [], "no more and no fewer questions"
