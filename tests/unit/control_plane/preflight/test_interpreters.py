"""Which interpreter can train on a node, and which one is taken."""

from __future__ import annotations

import pytest

from ugro.control_plane.preflight.interpreters import judge, python_for, take
from ugro.control_plane.preflight.torch_builds import NodeGpus
from ugro.nodes.remote.interpreters.interpreters import Facts, Interpreter, Matmul

GPU = NodeGpus(node="gpu1", driver="580.95.05", capabilities=("12.0",))
NO_GPU = NodeGpus(node="cpu1")
RIGHT = Matmul(device="NVIDIA GeForce RTX 5070 Ti", passed=True, error=None, seconds=0.2)


def interpreter(path: str = "/x/bin/python", source: str = "venv", **changes: object) -> Interpreter:
    facts = Facts(
        python="3.12.3",
        executable=path,
        prefix=path,
        machine="x86_64",
        can_make=True,
        torch="2.13.0+cu130",
        torch_error=None,
        distributed=True,
        cuda="13.0",
        archs=("sm_75", "sm_86", "sm_120"),
    )
    of_facts = {name: value for name, value in changes.items() if name in Facts.model_fields}
    made = Interpreter(
        path=path, source=source, version="3.12.3", facts=facts.model_copy(update=of_facts), matmul=RIGHT
    )
    return made.model_copy(update={name: value for name, value in changes.items() if name not in of_facts})


def test_takes_one_that_computes() -> None:
    assert judge(interpreter(), GPU).usable
    assert judge(interpreter(cuda=None, archs=(), matmul=RIGHT.model_copy(update={"device": "CPU"})), NO_GPU).usable


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (interpreter(version=None), "does not run"),
        (interpreter(version="3.6.9", facts=None), "Python 3.6.9 is too old: 3.8 or newer is needed"),
        (interpreter(facts=None, problem="it did not end within 60 s"), "it did not end within 60 s"),
        (interpreter(facts=None), "gave no answer"),
        (interpreter(torch=None), "has no torch"),
        (
            interpreter(torch=None, torch_error="libcudart.so.13: \x1b[2Jnone"),
            "cannot be imported: libcudart.so.13: none",
        ),
        (interpreter(distributed=False), "without torch.distributed"),
        (interpreter(cuda=None), "without CUDA and cannot use the GPU"),
        (interpreter(archs=("sm_75", "sm_90")), "no code for a GPU of this node (sm_120)"),
        (interpreter(matmul=None, problem="Segmentation fault"), "Segmentation fault"),
        (interpreter(matmul=None), "the GPU was not tried"),
        (
            interpreter(matmul=RIGHT.model_copy(update={"passed": False, "error": "no kernel image"})),
            "a matrix product on NVIDIA GeForce RTX 5070 Ti failed: no kernel image",
        ),
    ],
)
def test_says_why_one_cannot_train(one: Interpreter, reason: str) -> None:
    verdict = judge(one, GPU)
    assert not verdict.usable and reason in verdict.reason and verdict.reason.isprintable()


def test_accepts_the_cpu_where_gpus_are_simulated() -> None:
    assert judge(interpreter(cuda=None, archs=()), GPU, simulated=True).usable


def test_takes_the_configured_one_then_the_torch_of_the_others_then_the_newest() -> None:
    old, new = interpreter("/old", torch="2.5.1", cuda="12.1"), interpreter("/new", torch="2.14.0")
    named = interpreter("/named", source="configured", torch="2.4.0")
    paths = ["/old", "/new", "/named"]
    other = NodeGpus(node="gpu2", torch="2.5.0", cuda="12.1")

    def taken(*found: Interpreter, usable: list[str] = paths, others: tuple[NodeGpus, ...] = ()) -> tuple[str, str]:
        one = take(found, usable, others)
        assert one
        return one.path, one.why

    assert taken(old, new, named) == ("/named", "the inventory names it")
    assert taken(old, new, others=(other,)) == ("/old", "it has the torch of the other nodes")
    assert taken(old, new) == ("/new", "it has the newest torch")
    assert taken(old, new, named, usable=["/old"]) == ("/old", "no other one passes")
    assert take([old, new], []) is None


def test_asks_for_the_python_of_the_other_nodes_where_torch_has_wheels_for_it() -> None:
    wheels = ((3, 10), (3, 14))
    assert python_for(wheels, ["3.11.7", "3.11.2", "3.12.1"]) == "3.11"
    assert python_for(wheels, ["3.9.1", "3.9.2", "3.12.1"]) == "3.12"
    assert python_for(wheels, ["3.8.1"]) == python_for(wheels, []) == ">=3.10,<3.15"
