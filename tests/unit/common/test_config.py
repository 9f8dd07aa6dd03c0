"""The inventory and the job spec: what is accepted, and how mistakes are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import ROOT

from ugro.common.errors import InputError, InventoryError, JobSpecError
from ugro.common.inventory_file import load_inventory
from ugro.common.job_spec import job_spec, load_job_spec
from ugro.common.locations import inventory_path

OWNERS = """\
defaults:
  python: ~/miniconda3/envs/train/bin/python
  script: train_production.py
  env: {NCCL_DEBUG: WARN, A: "1"}
nodes:
  gpu-master: {address: 192.168.1.100, local: true}
  gpu1: {address: 192.168.1.101, user: ob, gpus: RTX 4070}
  gpu2: {address: 192.168.1.102, user: ollie, port: 2222, env: {A: "2"}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "inventory.yaml"
    path.write_text(text)
    return path


def test_the_owners_inventory(tmp_path: Path) -> None:
    inventory = load_inventory(write(tmp_path, OWNERS))
    assert list(inventory.nodes) == ["gpu-master", "gpu1", "gpu2"]
    assert inventory.script == "train_production.py"
    assert inventory.nodes["gpu1"].python == "~/miniconda3/envs/train/bin/python"
    assert inventory.nodes["gpu1"].gpus == ("RTX 4070",)
    assert inventory.nodes["gpu2"].port == 2222
    assert inventory.nodes["gpu2"].env == {"NCCL_DEBUG": "WARN", "A": "2"}, "a node's env is laid over the defaults'"


def test_names_of_dcgm_exporter_are_asked_for(tmp_path: Path) -> None:
    assert not load_inventory(write(tmp_path, OWNERS)).metrics.dcgm_names
    assert load_inventory(write(tmp_path, OWNERS + "metrics:\n  dcgm_names: yes\n")).metrics.dcgm_names


def test_the_repositorys_own_inventory() -> None:
    inventory = load_inventory(ROOT / "inventory.yaml")
    assert [node.user for node in inventory.nodes.values()] == [None, "ob", "ollie"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "nodes:\n  a: {address: 10.0.0.1}\n  b: {adress: 10.0.0.2}\n",
            "inventory.yaml:3: nodes.b.adress: unknown key",
        ),
        ("nodes:\n  a: {address: h}\nmetrics:\n  dcgm: yes\n", "inventory.yaml:4: metrics.dcgm: unknown key"),
        ("nodes:\n  a: {address: h}\nmetric:\n  dcgm_names: yes\n", "'dashboard' or 'metrics' is expected"),
        ("nodes:\n  a: {}\n", "inventory.yaml:2: nodes.a.address: is missing"),
        (
            "nodes:\n  a:\n    address: h\n    port: 99999\n",
            "inventory.yaml:4: nodes.a.port: found '99999': at most 65535 is expected",
        ),
        ("nodes:\n  a: {address: 'x y'}\n", "a host name or an IP address is expected"),
        ("nodes:\n  a: {address: -oProxyCommand=x}\n", "a host name or an IP address is expected"),
        ("nodes:\n  'a$(x)': {address: h}\n", "letters, digits"),
        ("nodes:\n  ../x: {address: h}\n", "letters, digits"),
        ("nodes:\n  a: {address: h, user: '-x'}\n", "a user name is expected"),
        ("nodes:\n  a: {address: h, base_dir: ugro}\n", "an absolute path"),
        ('nodes:\n  a: {address: h, python: "py\\nthon"}\n', "control characters"),
        ("nodes:\n  a: {address: h}\n  a: {address: h}\n", "inventory.yaml:3: nodes.a: stands twice (first on line 2)"),
        ("nodes: [a, b]\n", "inventory.yaml:1: nodes: found ['a', 'b']: keys with values are expected"),
        ("nodes:\n  a: 10.0.0.1\n", "inventory.yaml:2: nodes.a: found '10.0.0.1': keys with values are expected"),
        ("nodes: {}\n", "at least one node"),
        ("", "inventory.yaml:1: it is empty: keys with values are expected"),
        ("nodes: &n\n  a: *n\n", "contains itself"),
        ("nodes: " + "[" * 500 + "\n", "nested too deeply"),
        ("nodes:\n\ta: x\n", "inventory.yaml:2: not valid YAML"),
        ("node:\n  a: {address: h}\n", "inventory.yaml:1: node: unknown"),
        (
            "nodes:\n  a: {address: h, local: true}\n  b: {address: h, local: true}\n",
            "inventory.yaml:3: nodes.b.local: only this",
        ),
        (
            "defaults:\n  port: x\nnodes:\n  a: {address: h}\n",
            "inventory.yaml:2: defaults.port: found 'x': a whole number is expected",
        ),
        (
            "nodes:\n  a: {address: h, env: {'A B': x}}\n",
            "inventory.yaml:2: nodes.a.env.A B: 'A B' is not a variable name",
        ),
        ("nodes:\n  a: {address: h, env: {UGRO_JOB: x}}\n", ": UGRO_JOB is set by UGRO itself"),
    ],
)
def test_a_mistake_names_file_line_field_and_what_is_expected(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InventoryError) as caught:
        load_inventory(write(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_reports_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"there is no inventory at /[^ ]*/none\.yaml$"):
        load_inventory(tmp_path / "none.yaml")
    with pytest.raises(InventoryError, match="cannot be read"):
        load_inventory(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"nodes: \xff\n")
    with pytest.raises(InventoryError, match="not UTF-8"):
        load_inventory(binary)


def test_a_missing_inventory_names_every_place_that_was_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(InventoryError, match=rf"at \./inventory\.yaml or {home}/\.ugro/inventory\.yaml$"):
        load_inventory(inventory_path(None))


def test_selecting_nodes(tmp_path: Path) -> None:
    inventory = load_inventory(write(tmp_path, OWNERS))
    assert [node.name for node in inventory.select("gpu2, gpu1")] == ["gpu2", "gpu1"]
    for wrong in ("gpu7", "gpu1,gpu1", ","):
        with pytest.raises(InputError):
            inventory.select(wrong)


def test_which_inventory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"UGRO_HOME": str(tmp_path / "state")}
    assert inventory_path(None, environ) == tmp_path / "state" / "inventory.yaml"
    (tmp_path / "inventory.yaml").touch()
    assert inventory_path(None, environ) == Path("inventory.yaml")
    assert inventory_path(None, environ | {"UGRO_INVENTORY": "/x.yaml"}) == Path("/x.yaml")
    assert inventory_path("y.yaml", environ | {"UGRO_INVENTORY": "/x.yaml"}) == Path("y.yaml")


def test_a_job_yaml(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("script: train.py\nargs: [--epochs, 3, --lr, 1e-4]\nnodes: [gpu1, gpu2]\nenv: {N: 1}\n")
    spec = load_job_spec(path)
    assert spec.args == ("--epochs", "3", "--lr", "1e-4")
    assert spec.nodes == ("gpu1", "gpu2")
    assert spec.env == {"N": "1"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7200", 7200), ("'7200'", 7200), ("1h30m", 5400), ("1:30:00", 5400), ("'01:30:00'", 5400), ("1-12", 129600)],
)
def test_the_time_limit_of_a_job_yaml(tmp_path: Path, text: str, seconds: float) -> None:
    """A bare number counts seconds in a file, as it always did."""
    (tmp_path / "job.yaml").write_text(f"script: train.py\ntime_limit: {text}\n")
    assert load_job_spec(tmp_path / "job.yaml").time_limit == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("script: train.py\nnodes: 0\n", "job.yaml:2: nodes: found '0': a number of nodes, or their names"),
        ("script: ../train.py\n", "job.yaml:1: script: found '../train.py': a path inside the working directory"),
        ("args: []\n", "script: is missing"),
        ("script: train.py\nname: job-001\n", "are ids"),
        ("script: train.py\nnodes: [gpu1, gpu1]\n", "job.yaml:2: nodes: found ['gpu1', 'gpu1']: a node is named twice"),
        ("script: train.py\nname: 'a b'\n", "letters, digits"),
        ("script: train.py\nepochs: 3\n", "job.yaml:2: epochs: unknown key"),
        (
            "script: train.py\nargs: --epochs 3\n",
            "job.yaml:2: args: found '--epochs 3': a list is expected, such as [a, b]",
        ),
        ("script: train.py\ntime: 2h\n", "job.yaml:2: time: unknown key; did you mean 'time_limit'?"),
        ("script: train.py\nnot-before: 22:30\n", "job.yaml:2: not-before: unknown key; did you mean 'not_before'?"),
        ("script: train.py\nadress: x\n", "job.yaml:2: adress: unknown key"),
        ("script: train.py\ntime_limit: soon\n", "job.yaml:2: time_limit: found 'soon': a duration like"),
        ("script: train.py\nafter: ['job-001:soon']\n", "job.yaml:2: after.0: found 'job-001:soon': a job is expected"),
        ("script: train.py\ntime_warning: 5m\n", "job.yaml:2: time_warning: found '5m': a time limit"),
        ("script: train.py\ntime_limit: .inf\n", "time_limit: found '.inf': a duration like"),
        ("script: train.py\ntime_limit: .nan\n", "time_limit: found '.nan': a duration like"),
        ("script: train.py\nvram: 99999999999999\n", "vram: found '99999999999999': a size of at most 512T"),
        ("script: train.py\nnot_before: 1.0e+300\n", "not_before: found '1.0e+300': a time like"),
        ("script: train.py\non_failure: []\n", "job.yaml:2: on_failure: found []: keys with values, or words"),
        (
            "script: train.py\nenv:\n  A: 1\n  LOCAL_RANK: 0\n",
            "job.yaml:4: env.LOCAL_RANK: torchrun sets it for each rank",
        ),
        ("script: train.py\nenv: {CUDA_VISIBLE_DEVICES: 1}\n", "env.CUDA_VISIBLE_DEVICES: UGRO sets it to the GPUs"),
        ("script: train.py\nenv: {PATH: '/x:${PATH}'}\n", "env.PATH: $PATH is not expanded here"),
        ("script: train.py\nhang_after: 5m\n", "job.yaml:2: hang_after: found '5m': keys with values are expected"),
    ],
)
def test_a_mistake_in_a_job_yaml(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(JobSpecError) as caught:
        load_job_spec(path)
    assert said in str(caught.value)


def test_variables_that_count_are_no_mistake(tmp_path: Path) -> None:
    assert job_spec(script="t.py", gpus_per_node=0, env={"CUDA_VISIBLE_DEVICES": ""}).env
    assert job_spec(script="t.py", env={"A": "$PATH", "TOKEN": "a$b", "PATH": "/x:$PATHS"}).env["TOKEN"] == "a$b"


def test_arguments_are_kept_literally() -> None:
    hostile = ("$(touch x)", "a b", "'\"", "new\nline", "../..", "")
    assert job_spec(script="t.py", args=hostile).args == hostile
    with pytest.raises(JobSpecError, match="NUL"):
        job_spec(script="t.py", args=("a\0b",))
    with pytest.raises(JobSpecError, match=r"^argument 1 of the script: found .*: text in UTF-8 is expected"):
        job_spec(script="t.py", args=("\udcff",))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"time_warning": "1m"}, "time limit"),
        ({"checkpoints": {"resume": "x"}}, "^--resume-with: found 'x': {path} is expected in it once"),
        ({"time_warning": "5m", "time_limit": "1m"}, "time limit"),
        ({"time_limit": "-3"}, "^--time: found '-3': .*2h"),
        ({"time_limit": "99999999999h"}, "^--time: found .*: a duration of at most 10000d is expected"),
        ({"vram": "99999999999T"}, "^--vram: found .*: a size of at most 512T is expected"),
        ({"not_before": "99999-01-01"}, "^--not-before: found '99999-01-01': a time from 1970 to 2099 is expected"),
        ({"after": "job-001:soon"}, "^--after: found 'job-001:soon': .*success"),
        ({"priority": 10**6}, "^--priority: .*1000"),
        ({"gpus_per_node": -1}, "^--gpus-per-node: found -1"),
        ({"args": ("fine", "a\0b")}, "^argument 2 of the script: .*NUL"),
    ],
)
def test_refuses_fields_that_a_queue_cannot_keep(fields: dict[str, object], said: str) -> None:
    with pytest.raises(JobSpecError, match=said):
        job_spec(script="t.py", **fields)


def test_a_job_waits_once_for_another() -> None:
    after = ("job-001", "job-002:any", "job-001:success", "job-002:any")
    assert job_spec(script="t.py", after=after).after == ("job-001:success", "job-002:any")


def test_the_warning_comes_a_tenth_before_the_limit_and_at_most_five_minutes() -> None:
    assert job_spec(script="t.py").warning_seconds is None
    assert job_spec(script="t.py", time_limit="10m").warning_seconds == 60
    assert job_spec(script="t.py", time_limit="2h").warning_seconds == 300
    assert job_spec(script="t.py", time_limit="2h", time_warning="15m").warning_seconds == 900


def test_refuses_a_file_that_is_too_large_before_it_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "job.yaml").write_bytes(b"script: t.py\nargs:\n" + b"- x\n" * 400_000)
    with pytest.raises(JobSpecError, match="larger than 1024 KiB"):
        load_job_spec(path)
