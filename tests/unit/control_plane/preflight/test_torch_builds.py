"""Which torch is chosen for a cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.control_plane.preflight.software import fits
from ugro.control_plane.preflight.torch_builds import (
    BUILDS,
    CPU,
    DRIVERS,
    NoChoice,
    NodeGpus,
    TorchChoice,
    choose,
    index_of,
    pythons_for,
    release_of,
)

NEW = "580.95.05"
HAS = {"2.5.1": ("2.5.1+cu121", "12.1"), "2.13.0": ("2.13.0+cu130", "13.0"), "2.13.1": ("2.13.1+cu130", "13.0")}


def node(name: str, driver: str | None, *capabilities: str | None, has: str | None = None, **fields: str) -> NodeGpus:
    torch, cuda = HAS[has] if has else (None, None)
    return NodeGpus(node=name, driver=driver, capabilities=capabilities, torch=torch, cuda=cuda, **fields)


@pytest.mark.parametrize(
    ("nodes", "version", "index"),
    [
        pytest.param([node("a", NEW, "8.6"), node("b", NEW, "8.9"), node("c", NEW, "12.0")], "2.15", "cu130", id="new"),
        pytest.param([node("a", "570.86.10", "12.0")], "2.11", "cu128", id="RTX 50 with a driver for CUDA 12"),
        pytest.param([node("a", NEW, "8.6"), node("b", "570.86.10", "12.0")], "2.11", "cu128", id="old driver"),
        pytest.param([node("a", "535.183.01", "8.6")], "2.14", "cu126", id="driver for CUDA 12"),
        pytest.param([node("a", NEW, "6.1")], "2.14", "cu126", id="Pascal has no newer build"),
        pytest.param([node("a", NEW, "7.0"), node("b", NEW, "12.0")], "2.10", "cu128", id="Volta and Blackwell"),
        pytest.param([node("a", NEW, "12.1")], "2.15", "cu130", id="a later minor of the same major"),
        pytest.param([node("a", "470.256.02", "8.6")], "2.7", "cu118", id="driver for CUDA 11"),
        pytest.param([node("a", None)], "2.15", "cpu", id="no GPU"),
        pytest.param([node("a", None), node("b", NEW, "6.1")], "2.14", "cpu", id="no GPU beside a Pascal"),
        pytest.param([node("a", NEW, "8.6"), node("b", NEW, "8.9", has="2.5.1")], "2.5.1", "cu121", id="as the others"),
        pytest.param(
            [node("a", NEW, "8.6"), node("b", NEW, "8.9", has="2.13.1"), node("c", NEW, "8.9", has="2.13.0"),
             node("d", NEW, "8.9", has="2.13.0")], "2.13.0", "cu130", id="as most of the others",
        ),
        pytest.param(
            [node("a", NEW, "8.6"), node("b", NEW, "8.9", has="2.5.1"), node("c", NEW, "8.9", has="2.13.0"),
             node("d", NEW, "8.9", has="2.13.1")], "2.13.0", "cu130", id="the release of most of them",
        ),
    ],
)  # fmt: skip
def test_chooses_for_the_whole_cluster(nodes: list[NodeGpus], version: str, index: str) -> None:
    chosen = choose(nodes[0], nodes[1:])
    assert isinstance(chosen, TorchChoice)
    assert (chosen.version, chosen.index) == (version, index)
    assert not chosen.others or index == CPU


def test_gives_two_indexes_of_one_release_where_no_build_suits_all() -> None:
    chosen = choose(node("old", NEW, "6.1"), [node("new", NEW, "12.0")])
    assert isinstance(chosen, TorchChoice)
    assert (chosen.version, chosen.index, chosen.others) == ("2.14", "cu126", {"new": "cu130"})
    [note] = chosen.notes
    assert "their NCCL differs (2.29.3 and 2.30.7), so no job runs on both" in note
    back = choose(node("new", NEW, "12.0"), [node("old", NEW, "6.1")])
    assert isinstance(back, TorchChoice) and (back.version, back.index, back.others) == (
        "2.14",
        "cu130",
        {"old": "cu126"},
    )


def test_tells_which_nodes_need_another_torch() -> None:
    chosen = choose(node("a", NEW, "12.0"), [node("b", NEW, "8.9", has="2.5.1")])
    assert isinstance(chosen, TorchChoice) and chosen.version == "2.15"
    assert chosen.notes == (
        "b has torch 2.5.1+cu121: no job runs on both until it has 2.15, too (`ugro node python b --make`).",
    )


def test_leaves_out_nodes_of_which_nothing_is_known() -> None:
    chosen = choose(node("a", NEW, "8.6"), [node("b", None, "8.6"), node("c", NEW, "3.5")])
    assert isinstance(chosen, TorchChoice) and chosen.version == "2.15"
    assert chosen.notes == (
        "b was left out: the version of its NVIDIA driver is unknown.",
        "c was left out: no build of torch has code for sm_35.",
    )


@pytest.mark.parametrize(
    ("target", "reason", "hint"),
    [
        (node("a", None, "8.6"), "the version of its NVIDIA driver is unknown", "ugro check --on a"),
        (node("a", "nonsense", "8.6"), "the version of its NVIDIA driver is unknown", "ugro check --on a"),
        (node("a", "390.157", "6.1"), "its driver 390.157 is too old for any build of torch", "525.60.13"),
        (node("a", NEW, None), "its driver does not say the compute capability", "newer driver"),
        (node("a", NEW, "3.5"), "no build of torch has code for sm_35", "leave its GPUs out"),
        (node("a", "470.256.02", "12.0"), "too old for the builds that have code for sm_120", "525.60.13"),
        (node("a", NEW, "9.0", machine="aarch64"), "beside a aarch64 CPU is not known", "its vendor"),
        (node("a", None, gpu_problem="nvidia-smi hangs"), "its GPU cannot be asked: nvidia-smi hangs", "ugro check"),
    ],
)
def test_says_why_there_is_none(target: NodeGpus, reason: str, hint: str) -> None:
    none = choose(target)
    assert isinstance(none, NoChoice) and reason in none.reason and hint in none.hint


def test_names_the_nodes_that_have_no_release_in_common() -> None:
    # Blackwell needs 2.7 or newer for CUDA 12.8, and this driver knows CUDA 11 alone, which ends with 2.7.
    both = choose(node("old", "470.256.02", "8.6"), [node("new", NEW, "12.0")])
    assert isinstance(both, TorchChoice) and both.version == "2.7" and both.others == {"new": "cu128"}


_nodes = st.builds(
    NodeGpus,
    node=st.sampled_from(["a", "b", "c", "d"]),
    driver=st.sampled_from([None, "", "390.1", "470.1", "525.60.13", "570.1.2", NEW, "9999", "x" * 9, "5" * 50]),
    capabilities=st.lists(
        st.sampled_from([None, "3.5", "5.2", "6.1", "7.0", "7.5", "8.6", "9.0", "12.0"]), max_size=3
    ).map(tuple),
    torch=st.sampled_from([None, "", "2.5.1+cu121", "2.13.0", "2.15.0.dev1", "1.13", "9" * 400, "nonsense"]),
    cuda=st.sampled_from([None, "", "12.1", "13.0", "x"]),
)


@given(_nodes, st.lists(_nodes, max_size=4))
def test_never_chooses_what_a_driver_or_gpu_cannot_run(target: NodeGpus, others: list[NodeGpus]) -> None:
    others = [other for other in {one.node: one for one in others}.values() if other.node != target.node]
    chosen = choose(target, others)
    if isinstance(chosen, NoChoice):
        assert target.capabilities or target.gpu_problem
        assert chosen.reason and chosen.hint
        return
    release = release_of(chosen.version)
    left_out = {note.split()[0] for note in chosen.notes if "was left out" in note}
    for node_ in (target, *others):
        if node_.node in left_out:
            continue
        index = chosen.others.get(node_.node) or (chosen.index if chosen.index != CPU else None)
        if node_.capabilities and index:
            [build] = [one for one in BUILDS if (one.torch, one.index) == (release, index)]
            assert all(fits(build.archs, capability) for capability in node_.capabilities if capability)
            assert float((node_.driver or "0").split(".")[0]) >= DRIVERS[index[:4]][0]
        else:
            assert not node_.capabilities or index is None


def test_every_build_has_a_source_and_a_python() -> None:
    for build in BUILDS:
        low, high = pythons_for(build.torch)
        assert build.source and (3, 8) <= low < high
        assert build.index == CPU or (build.archs and build.index[:4] in DRIVERS)


def test_reads_versions_that_mean_nothing_as_none() -> None:
    assert [release_of(text) for text in ("2.13.1+cu130", "2.15.0a0", "", None, "two", "2.1234")] == [
        *("2.13", "2.15"),
        *[None] * 4,
    ]
    assert [index_of(text) for text in ("13.0", "12.6", None, "new")] == ["cu130", "cu126", "cpu", None]
