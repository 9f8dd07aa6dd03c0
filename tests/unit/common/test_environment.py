"""The environment of a job from a job.yaml and a command line: its forms, which wins, and errors with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.common.errors import JobSpecError
from ugro.common.fields import looks_secret
from ugro.common.job_spec import JobSpec, load_job_spec
from ugro.service.schemas.launch import DefaultScriptDocument
from ugro.service.submission import LaunchLine, read_spec


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE", "forwarded")
    monkeypatch.delenv("NOT_THERE", raising=False)
    Path("t.py").write_text("")
    Path("a.env").write_text("A=file a\nB=file a\nC=file a\n")
    Path("b.env").write_text("B=file b\nC=file b\n")


def load(text: str) -> JobSpec:
    Path("job.yaml").write_text(f"script: t.py\n{text}")
    return load_job_spec(Path("job.yaml"))


def launched(text: str, **options: object) -> JobSpec:
    load(text)
    return read_spec(LaunchLine(("job.yaml",), (), options), lambda: DefaultScriptDocument(script=None, inventory=""))


def test_reads_lists_and_files() -> None:
    assert load("env: [MINE, A=x=y, B=]\n").env == {"MINE": "forwarded", "A": "x=y", "B": ""}
    assert load("env_file: a.env\n").env == dict.fromkeys("ABC", "file a")
    assert load("env_file: [a.env, ./b.env]\nenv: {C: own}\n").env == {"A": "file a", "B": "file b", "C": "own"}
    assert load("env_file: b.env\nenv: [MINE]\n").env == {"MINE": "forwarded", "B": "file b", "C": "file b"}
    assert load("env_file:\nenv:\n").env == {} and load("env: {A: }\n").env == {"A": ""}
    assert load("secrets: HF_TOKEN\n").secrets == ("HF_TOKEN",)
    spec = load("secrets: [HF_TOKEN, W=team-key, A=A, A]\n")
    assert spec.secrets == ("HF_TOKEN", "W=team-key", "A")
    assert spec.secret_names == {"HF_TOKEN": "HF_TOKEN", "W": "team-key", "A": "A"}


def test_reads_files_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/job.yaml").write_text("script: t.py\nenv_file: c.env\n")
    (tmp_path / "sub/c.env").write_text("C=beside\n")
    assert load_job_spec(Path("sub/job.yaml")).env == {"C": "beside"}


def test_lets_the_command_line_win() -> None:
    text = "env_file: a.env\nenv: {B: own, D: own}\nsecrets: [S, T=other]\n"
    assert launched(text, env=("D=said", "MINE")).env == {
        "A": "file a",
        "B": "own",
        "C": "file a",
        "D": "said",
        "MINE": "forwarded",
    }
    assert launched(text, env_file=("b.env",), env=("C=said",)).env == {
        "A": "file a",
        "B": "file b",
        "C": "said",
        "D": "own",
    }
    found = launched(text, env=("S=plain",), secrets=("D", "T=mine"))
    assert (found.secrets, found.env["S"], "D" in found.env) == (("D", "T=mine"), "plain", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env:\n- A=1\n- NOT_THERE\n", "job.yaml:4: env: NOT_THERE is not set here, so it cannot be forwarded"),
        ("env: [A-B=hf_x]\n", "job.yaml:2: env: found 'A-B': NAME=VALUE, or the NAME of a variable to forward"),
        ("env: [[A]]\n", "job.yaml:2: env: found ['A']: NAME=VALUE, or the NAME"),
        ("env: [UGRO_X=1]\n", "job.yaml:2: env.UGRO_X: UGRO_X is set by UGRO itself"),
        ("env:\n- A=1\n- RANK=1\n", "job.yaml:4: env.RANK: torchrun sets it for each rank"),
        ("env: text\n", "job.yaml:2: env: found 'text': keys with values are expected"),
        ("env_file: none\n", "none: cannot be read: No such file or directory"),
        ("env_file: {a: b}\n", "job.yaml:2: env_file: found {'a': 'b'}: the path of a file is expected"),
        ("env_file: []\n", "job.yaml:2: env_file: found []: the path of a file is expected"),
        ("env_file: rank.env\n", "rank.env:2: RANK: torchrun sets it for each rank"),
        ("env_file: ugro.env\n", "ugro.env:1: UGRO_X: UGRO_X is set by UGRO itself"),
        ("env_file: gpus.env\n", "gpus.env:1: CUDA_VISIBLE_DEVICES: UGRO sets it to the GPUs that each rank gets"),
        ("env_files: a.env\n", "job.yaml:2: env_files: unknown key; did you mean 'env_file'?"),
        ("secrets: [A B]\n", "job.yaml:2: secrets.0: the name of a secret is expected, as in HF_TOKEN"),
        ("env: {A: x}\nsecrets: [A]\n", "job.yaml:3: secrets: A is in 'env' too, and a variable has one value"),
    ],
)
def test_names_file_and_line(text: str, message: str) -> None:
    Path("rank.env").write_text("A=1\nRANK=2\n")
    Path("ugro.env").write_text("UGRO_X=1\n")
    Path("gpus.env").write_text("CUDA_VISIBLE_DEVICES=0\n")
    with pytest.raises(JobSpecError) as caught:
        load(text)
    assert caught.value.message.startswith(message) and "hf_x" not in caught.value.message


def test_lets_a_job_without_gpus_hide_them() -> None:
    Path("gpus.env").write_text("CUDA_VISIBLE_DEVICES=\n")
    assert load("gpus_per_node: 0\nenv_file: gpus.env\n").env == {"CUDA_VISIBLE_DEVICES": ""}


def test_knows_the_names_of_secrets() -> None:
    assert all(map(looks_secret, ("HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD", "password", "AWS_SECRET", "KEY")))
    assert not any(map(looks_secret, ("TOKENIZERS_PARALLELISM", "KEYS", "MONKEY", "SECRETARY", "PATH")))
