"""YAML that people write: text stays as it stands, no file runs away, and every mistake is in UGRO's own words."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from ugro.common.config import NodeConfig
from ugro.common.errors import InputError, InventoryError, JobSpecError, UgroError
from ugro.common.fields import NAME, is_node_name
from ugro.common.inventory_file import load_inventory, parse_inventory
from ugro.common.job_spec import JobSpec, load_job_spec
from ugro.common.yaml_files import LOADER, MOST_VALUES, Keys, line_of, parse_yaml
from ugro.control_plane.failure_handler.alerts.settings import EXAMPLE, load_settings
from ugro.service.inventory import NamedHost, draft

FILE = Path("f.yaml")

# YAML takes these for a number, a date, a flag or nothing, where the user may have meant the characters.
WORDS = (
    "22:30", "1:02:03", "007", "0o7", "0x10", "1_000", "+1", "-1", "1e3", "1.0", ".5", "5.", ".inf", ".nan", "1e-4",
    "2024-01-01", "2024-01-01T10:00:00Z", "true", "True", "yes", "no", "on", "off", "y", "null", "Null", "~", "=", "<",
    "--id", "-", "a#b", "C:", "00", "0", "2", "12345678901234567890", "0b11", "é", "*.py",
)  # fmt: skip


def read(text: str, loader: Any = LOADER) -> Keys:
    return parse_yaml(text, FILE, InputError, loader)


def refusal(text: str, loader: Any = LOADER) -> str:
    with pytest.raises(InputError) as caught:
        read(text, loader)
    return str(caught.value)


def job_of(folder: Path, text: str) -> JobSpec:
    (path := folder / "job.yaml").write_text(text)
    return load_job_spec(path)


# Text


@pytest.mark.parametrize("word", [word for word in WORDS if word not in ("*.py", "-", "C:")])
def test_reads_what_stands_there_as_the_same_characters(tmp_path: Path, word: str) -> None:
    job = job_of(tmp_path, f"script: t.py\nargs:\n  - {word}\n  - --at\nenv:\n  A: {word}\n  B: '{word}'\n")
    assert job.args == (word, "--at")
    assert job.env == {"A": word, "B": word}
    assert {type(text) for text in (*job.args, *job.env.values())} == {str}


def test_reads_arguments_in_a_row_as_the_same_characters(tmp_path: Path) -> None:
    job = job_of(tmp_path, "script: t.py\nargs: [--at, 22:30, --id, 007, --n, 1_000, 2024-01-01, ~, null, on, 0x10]\n")
    assert job.args == ("--at", "22:30", "--id", "007", "--n", "1_000", "2024-01-01", "~", "null", "on", "0x10")


def test_an_empty_argument_or_variable_is_empty_text(tmp_path: Path) -> None:
    job = job_of(tmp_path, "script: t.py\nargs: ['', a]\nenv:\n  A:\n  B: ''\n")
    assert job.args == ("", "a") and job.env == {"A": "", "B": ""}


@pytest.mark.parametrize("name", [word for word in WORDS if is_node_name(word)])
def test_a_node_may_be_called_what_yaml_takes_for_something_else(tmp_path: Path, name: str) -> None:
    inventory = parse_inventory(f"nodes:\n  {name}: {{address: h, env: {{A: {name}}}}}\n", FILE)
    assert list(inventory.nodes) == [name]
    assert inventory.nodes[name].name == name and inventory.nodes[name].env == {"A": name}
    assert job_of(tmp_path, f"script: t.py\nname: '{name}'\nnodes: [{name}, b]\n").nodes == (name, "b")


@pytest.mark.parametrize("name", ["2", "007", "all", "ALL"])
def test_refuses_a_node_whose_name_asks_for_nodes(name: str) -> None:
    with pytest.raises(InventoryError) as caught:
        parse_inventory(f"nodes:\n  a: {{address: h}}\n  {name}: {{address: h}}\n", FILE)
    expected = "a name that is neither a number nor 'all' is expected, since --nodes 2 asks for two nodes"
    assert str(caught.value) == f"f.yaml:3: nodes.{name}: found '{name}': {expected}"


@given(st.lists(st.text(st.characters(exclude_categories=["C"], include_characters="\n\t"))))
def test_text_that_was_written_by_a_yaml_library_is_read_as_it_was(texts: list[str]) -> None:
    document = {"args": texts, "env": {f"A{index}": text for index, text in enumerate(texts)}}
    for flow in (True, False):
        assert read(yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True)) == document


# Keys of UGRO's own


def test_reads_numbers_and_flags_of_its_own_keys(tmp_path: Path) -> None:
    job = job_of(
        tmp_path,
        "script: ./t\nno_python: true\nhold: yes\npriority: -5\ngpus_per_node: 0\nnodes: 2\ntime_limit: 1.5h\n"
        "grace: 90\nvram: 10G\nnot_before: 2030-01-02T03:04\nhang_after: {min: 5m, max: 3600}\nschema_version: 1\n"
        "on_failure: {default: retry, max_retries: 4, causes: {cuda_oom: fail}}\ncheckpoints: {keep_last: 2}\n",
    )
    assert (job.no_python, job.hold, job.priority, job.gpus_per_node, job.nodes) == (True, True, -5, 0, 2)
    assert (job.time_limit, job.grace, job.vram) == (5400, 90, 10240)
    assert job.not_before == time.mktime((2030, 1, 2, 3, 4, 0, 0, 0, -1))
    assert job.hang_after and (job.hang_after.min, job.hang_after.max) == (300, 3600)
    assert (job.on_failure.max_retries, job.on_failure.action("cuda_oom"), job.checkpoints.keep_last) == (4, "fail", 2)
    node = parse_inventory("nodes:\n  a: {address: h, port: 22, local: off, min_disk: 0, gpus: 3090}\n", FILE).nodes[
        "a"
    ]
    assert (node.port, node.local, node.min_disk, node.gpus) == (22, False, 0, ("3090",))


@pytest.mark.parametrize("word", ["022", "0x16", "1_000", "+22", "22.0", "2e1", "1:30", "~", "''", "[22]", "true"])
def test_a_number_is_written_as_a_number(word: str) -> None:
    with pytest.raises(InventoryError, match=r"^f\.yaml:2: nodes\.a\.port: found .*: a whole number is expected$"):
        parse_inventory(f"nodes:\n  a: {{address: h, port: {word}}}\n", FILE)


@pytest.mark.parametrize("word", ["1", "y", "t", "~", "''", "2", "[]"])
def test_a_flag_is_written_as_true_or_false(word: str) -> None:
    with pytest.raises(InventoryError, match=r"^f\.yaml:2: nodes\.a\.local: found .*: true or false is expected$"):
        parse_inventory(f"nodes:\n  a: {{address: h, local: {word}}}\n", FILE)


@pytest.mark.parametrize("nothing", ["", " null", " NULL"])
def test_a_key_with_nothing_after_it_is_not_given(tmp_path: Path, nothing: str) -> None:
    keys = "".join(f"{key}:{nothing}\n" for key in JobSpec.model_fields if key not in ("script", "env", "module"))
    assert job_of(tmp_path, f"script: t.py\nenv:{nothing}\n{keys}") == JobSpec(script="t.py")
    own = "".join(f"    {key}:{nothing}\n" for key in NodeConfig.model_fields if key not in ("address", "name"))
    inventory = parse_inventory(f"defaults: {{user: ob}}\nnodes:\n  a:\n    address: h\n{own}", FILE)
    assert inventory.nodes == {"a": NodeConfig(name="a", address="h")}
    assert parse_inventory(f"defaults:{nothing}\nnodes:\n  a: {{address: h}}\n", FILE).nodes == inventory.nodes
    with pytest.raises(InventoryError, match=r"^f\.yaml:3: nodes\.a\.address: is missing$"):
        parse_inventory(f"nodes:\n  a:\n    address:{nothing}\n", FILE)


def test_quoted_words_are_text_even_where_a_key_may_miss(tmp_path: Path) -> None:
    assert job_of(tmp_path, "script: t.py\nname: 'null'\n").name == "null"
    with pytest.raises(JobSpecError, match="name: found '': letters"):
        job_of(tmp_path, "script: t.py\nname: ''\n")


def test_a_lone_tilde_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(JobSpecError, match=r"job\.yaml:2: workdir: found '~': a longer path is expected"):
        job_of(tmp_path, "script: t.py\nworkdir: ~\n")


def test_a_frozen_spec_is_a_job_file(tmp_path: Path) -> None:
    spec = JobSpec(
        script="t.py", args=("--at", "22:30", "~", "null", "", "a: b", "é\u2028\n"), env={"A": "007", "B": "on"},
        name="null", nodes=("no", "1e3"), time_limit="90m", time_warning="5m", not_before=1890000000.25, vram=10240,
        after=("job-001:any",), on_failure=("ask", "cuda_oom=fail"), checkpoints="ckpt", hang_after={"max": "3h"},
    )  # fmt: skip
    assert job_of(tmp_path, spec.model_dump_json(indent=1)) == spec


def test_reads_back_what_init_writes_as_other_readers_do() -> None:
    names = ["no", "1e3", "0x10", "null", "yes", "1.0", "gpu1"]
    hosts = [NamedHost(name, name, user, 2222) for name, user in zip(names, [*names[1:], None], strict=True)]
    text = draft("on", "10.0.0.1", hosts, [NamedHost("off", "off")])
    inventory = parse_inventory(text, FILE)
    assert [(n.name, n.address, n.user, n.port) for n in inventory.nodes.values()] == [
        ("on", "10.0.0.1", None, None), *((h.name, h.address, h.user, h.port) for h in hosts),
    ]  # fmt: skip
    assert list(yaml.safe_load(text)["nodes"]) == ["on", *names]
    assert is_node_name("off") and parse_inventory(text.replace("  # 'off'", "  'off'"), FILE).nodes["off"]


# Other features of YAML


def test_keys_that_another_mapping_has_are_merged() -> None:
    text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  c: 5\n  <<: [*x, *y]\nw: {<<: *x}\n"
    document = read(text)
    assert document["z"] == {"b": "2", "c": "5", "a": "1"} and document["w"] == {"a": "1", "b": "2"}
    assert list(document["z"]) == ["a", "b", "c"]
    assert (line_of(document, ("z", "c")), line_of(document, ("z", "a"))) == (4, 1), "where it is written"


def test_an_inventory_may_share_keys() -> None:
    text = "nodes:\n  a: &a {address: h1, port: 22, env: {A: 1}}\n  b: {<<: *a, address: h2}\n"
    assert parse_inventory(text, FILE).nodes["b"] == NodeConfig(name="b", address="h2", port=22, env={"A": "1"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!int 3\n", "f.yaml:1: a: the tag 'tag:yaml.org,2002:int' is not known here"),
        ("a: !x {b: c}\n", "f.yaml:1: a: the tag '!x' is not known here"),
        ("a:\n  ? [b]\n  : c\n", "f.yaml:2: a: text is expected as a key"),
        ("a: 1\nb:\n  a: 1\n  a: 2\n", "f.yaml:4: b.a: stands twice (first on line 3)"),
        ("a: {<<: {b: c}, <<: {b: d}}\n", "f.yaml:1: a.<<: stands twice"),
        ("no: 1\n'no': 2\n", "f.yaml:2: no: stands twice"),
        ("a: {<<: b}\n", "f.yaml:1: a.<<: found 'b': another mapping is expected, as in <<: *name"),
        ("a: &x {b: *x}\n", "f.yaml:1: a.b: *x contains itself"),
        ("a: *x\n", "f.yaml:1: a: nothing is called &x before this line"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: a second document begins here"),
        ("a: 1\nb: \x07\n", "f.yaml:2: not valid YAML: a control character (U+0007)"),
        ("# nothing\n", "f.yaml:1: it is empty: keys with values are expected"),
        ("- a\n", "f.yaml:1: found ['a']: keys with values are expected"),
        ("a: 'b\n", "not valid YAML"),
    ],
)
@pytest.mark.parametrize("loader", [LOADER, yaml.SafeLoader])
def test_refuses_yaml_that_is_not_plain(text: str, said: str, loader: Any) -> None:
    assert said in refusal(text, loader)


def test_text_with_a_tag_that_says_so_is_text() -> None:
    assert read("a: !!str 007\nb: ! x\n") == {"a": "007", "b": "x"}


def test_a_file_that_is_not_utf_8_names_the_line(tmp_path: Path) -> None:
    (path := tmp_path / "job.yaml").write_bytes(b"script: t.py\nname: \xff\n")
    with pytest.raises(JobSpecError, match=r"job\.yaml:2: not UTF-8"):
        load_job_spec(path)
    path.write_bytes("\ufeffscript: t.py\n".encode())
    assert load_job_spec(path).script == "t.py", "an editor's mark of UTF-8"


# Bounds

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{letter}: &{letter} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, letter in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "nodes:\n  n0: &n0 {address: h}\n" + "".join(
    f"  n{i}: &n{i} {{<<: *n{i - 1}, a: *n{i - 1}, b: *n{i - 1}}}\n" for i in range(1, 40)
)
CHAIN = "a:\n  - &a0 x\n" + "".join(f"  - &a{i} [*a{i - 1}]\n" for i in range(1, 5000))


@pytest.mark.parametrize("text", [BOMB, MERGED, CHAIN, "a: " + "[" * 10**5, "a: " + "{a: " * 10**5, "- " * 10**5])
def test_no_file_runs_away(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "f.yaml").write_text(text)
    before = time.process_time()
    for load in (load_inventory, load_job_spec, load_settings):
        with pytest.raises(UgroError, match=r"nest|values with all aliases"):
            load(path)
    assert time.process_time() - before < 10


def test_a_bomb_is_refused_at_the_bound() -> None:
    assert refusal(BOMB) == f"f.yaml:6: more than {MOST_VALUES} values with all aliases written out"


def test_ten_thousand_nodes_are_read_in_moments() -> None:
    text = "defaults: {env: {A: 1}}\nnodes:\n" + "".join(
        f"  node{i:05d}: {{address: 10.0.{i // 256}.{i % 256}, user: ob, port: 22}}\n" for i in range(10_000)
    )
    before = time.process_time()
    assert len(parse_inventory(text, FILE).nodes) == 10_000
    assert time.process_time() - before < 5, "0.5 s with libyaml"


# Both loaders


def blocks(path: Path) -> list[str]:
    """The YAML of a page of the documentation."""
    return re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


OWN_FILES = [
    *((ROOT / name).read_text(encoding="utf-8") for name in ("inventory.yaml", "examples/job.yaml")),
    *(
        text
        for page in ("docs/inventory.md", "docs/alerts.md", "docs/recovery.md", "docs/watchdog.md")
        for text in blocks(ROOT / page)
    ),
    EXAMPLE,
]


@pytest.mark.skipif(LOADER is yaml.SafeLoader, reason="PyYAML was built without libyaml")
@pytest.mark.parametrize("text", OWN_FILES)
def test_both_loaders_agree_on_our_files(text: str) -> None:
    ours, pure = read(text), read(text, yaml.SafeLoader)
    assert described(ours) == described(pure)
    assert ours


def described(value: Any) -> Any:
    """A document with everything that is known of it."""
    if isinstance(value, Keys):
        return [(key, type(key), value.lines[key], described(each)) for key, each in value.items()]
    if isinstance(value, list):
        return [described(each) for each in value]
    return type(value), value


SCALARS = st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["C"]), max_size=12))
DOCUMENTS = st.dictionaries(
    st.one_of(st.sampled_from([*JobSpec.model_fields, "nodes", "defaults", "no"]), SCALARS),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4)),
    min_size=1,
    max_size=5,
)


@pytest.mark.long
@pytest.mark.skipif(LOADER is yaml.SafeLoader, reason="PyYAML was built without libyaml")
@given(DOCUMENTS, st.booleans(), st.sampled_from([None, "'", '"']))
@settings(max_examples=200)
def test_both_loaders_agree(document: dict[str, Any], flow: bool, style: str | None) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow, default_style=style, allow_unicode=True)
    assert described(read(text)) == described(read(text, yaml.SafeLoader))
    assert read(text) == document


# Our own words

NOT_OURS = re.compile(
    r"Input should|valid (tuple|integer|string|dict|list|bool|number|set)|found None|\[key\]|pydantic|Value error|"
    r"instance of|unable to|function-|constrained|type=|Traceback|is expected is expected|another kind of value"
)
VALUES = st.recursive(
    st.one_of(SCALARS, st.sampled_from(["ask", "retry", "oom=fail", "5m", "10G", "gpu1", "failure", "true", "3"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["min", "causes", "default", "dir", "oom", "url", "when", "to", "A"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)


def said_of(load: Any, path: Path, document: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    path.chmod(0o600)
    try:
        load(path)
    except UgroError as error:
        assert str(error).startswith(f"{path}:"), "names the file"
        assert "\n" not in str(error)
        return str(error)
    return ""


@given(st.dictionaries(st.sampled_from([*JobSpec.model_fields, "scirpt"]), VALUES, max_size=4))
@settings(max_examples=300)
def test_every_mistake_in_a_job_file_is_in_our_words(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "job.yaml"
    assert not NOT_OURS.search(said_of(load_job_spec, path, {"script": "t.py"} | document))


@given(
    st.dictionaries(st.sampled_from([*NodeConfig.model_fields, "script"]), VALUES, max_size=3),
    st.dictionaries(st.sampled_from(["gpu1", "no", "2", "a b"]), VALUES | st.dictionaries(
        st.sampled_from([*NodeConfig.model_fields]), VALUES, max_size=3), max_size=3),
)  # fmt: skip
@settings(max_examples=300)
def test_every_mistake_in_an_inventory_is_in_our_words(
    tmp_path_factory: pytest.TempPathFactory, defaults: dict[str, Any], nodes: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "inventory.yaml"
    assert not NOT_OURS.search(said_of(load_inventory, path, {"defaults": defaults, "nodes": nodes}))
    assert not NOT_OURS.search(said_of(load_inventory, path, {"nodes": {"a": {"address": "h"} | defaults}}))


@pytest.mark.long
@given(st.dictionaries(st.sampled_from(["channels", "rules", "to"]), VALUES | st.lists(st.dictionaries(
    st.sampled_from(["when", "to", "jobs", "quiet"]), VALUES)) | st.dictionaries(st.just("phone"), st.dictionaries(
    st.sampled_from(["url", "url_env"]), VALUES))))  # fmt: skip
@settings(max_examples=300)
def test_every_mistake_in_alert_settings_is_in_our_words(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "alerts.yaml"
    assert not NOT_OURS.search(said_of(load_settings, path, document))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("args: {a: b}", "job.yaml:2: args: found {'a': 'b'}: a list is expected, such as [a, b]"),
        ("args: [[a]]", "job.yaml:2: args.0: found ['a']: text is expected"),
        ("env: {A: [b]}", "job.yaml:2: env.A: found ['b']: text is expected"),
        ("env: {A-B: c}", "job.yaml:2: env.A-B: 'A-B' is not a variable name"),
        ("on_failure: {causes: {omm: retry}}", "on_failure.causes.omm: found 'omm': a cause of failure is expected"),
        ("on_failure: maybe", "on_failure.default: found 'maybe': 'ask', 'retry' or 'fail' is expected"),
        ("on_failure: {max_retries: -1}", "on_failure.max_retries: found '-1': at least 0 is expected"),
        ("priority: 5000", "priority: found '5000': at most 1000 is expected"),
        ("nodes: {gpu1: 2}", "nodes: found {'gpu1': '2'}: a number of nodes, or their names, is expected"),
        ("schema_version: 2", "schema_version: found 2: 1 is expected"),
        ("module: pkg.train", "job.yaml:2: module: either a 'script' or a 'module' is expected, not both"),
        ("checkpoints: [a]", "checkpoints: found ['a']: keys with values are expected"),
        ("after: {a: b}", "after: found {'a': 'b'}: a list is expected, such as [a, b]"),
        ("name: [a]", "name: found ['a']: text is expected"),
        ("hang_after: {mim: 5m}", "hang_after.mim: unknown key"),
        ("hold: 2", "hold: found '2': true or false is expected"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_is_expected(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        job_of(tmp_path, f"script: t.py\n{text}\n")
    assert said in str(caught.value)


def test_a_name_in_a_node_is_no_second_name() -> None:
    with pytest.raises(InventoryError, match=r"^f\.yaml:2: nodes\.a\.name: unknown key; a node's name is its own key$"):
        parse_inventory("nodes:\n  a: {address: h, name: b}\n", FILE)


def test_reports_a_mistake_in_the_defaults_once_and_there() -> None:
    text = "defaults:\n  env: {A B: x}\n  script: [t.py]\nnodes:\n  a: {address: h}\n  b: {address: h, env: {C: d}}\n"
    with pytest.raises(InventoryError) as caught:
        parse_inventory(text, FILE)
    assert str(caught.value) == "f.yaml:2: defaults.env.A B: 'A B' is not a variable name (and 1 more)"
    assert all(NAME.fullmatch(name) for name in ("a", "b"))
