"""Reading records so that a broken file is named with the way back, and older schemas are brought up to date."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from ugro.common.errors import InputError, RecordNewer, RecordUnreadable, StateError
from ugro.common.files import FULL, FULL_HINT, write_atomic
from ugro.common.mistakes import UNKNOWN_KEY, first_mistake
from ugro.common.models.job import SCHEMA_VERSION, Job
from ugro.common.paths import JOBS
from ugro.common.text import clock, printable, some

Model = TypeVar("Model", bound=BaseModel)
Fields = dict[str, Any]
OnUnreadable = Callable[[RecordUnreadable], object]
"""Handler of one unreadable record among many, as `os.walk` takes its `onerror`."""


def _with_code_of_attempts(job: Fields) -> Fields:
    """Before version 3 all attempts of a job ran one code. What is no list of attempts is the model's to refuse."""
    past = job.get("past", [])
    if isinstance(past, list):
        past = [one | {"code": job.get("code")} if isinstance(one, dict) else one for one in past]
    return job | {"past": past, "schema_version": 3}


MIGRATIONS: Mapping[int, Callable[[Fields], Fields]] = {
    1: lambda job: job | {"priority": 0, "schema_version": 2},
    2: _with_code_of_attempts,
}
"""From the schema version of a job's record to the next one."""


LONGEST_LINE = 8 * 2**20
"""More bytes than a line of JSON has; longer ones are passed over like incomplete ones, in parts."""


def stop_at(error: RecordUnreadable) -> NoReturn:
    """For those who act: what the record would have said may matter."""
    raise error


def may_hold(error: RecordUnreadable) -> bool:
    """Whether a job with such a record may hold GPUs."""
    return not (isinstance(error, RecordNewer) and error.holds_nothing)


def stop_where_held(error: RecordUnreadable) -> None:
    """Handler for callers that assign GPUs, or list their holders."""
    if may_hold(error):
        raise error


def pass_over(error: RecordUnreadable) -> None:
    """Handler for callers that need only readable records, where the others are reported elsewhere."""


def copy_before(path: Path) -> Path:
    """Return the path of a record's content before its last change."""
    return path.with_name(path.name + ".before")


def replace_record(path: Path, text: str) -> None:
    """Write a record atomically and keep what it said before."""
    if path.exists():
        spare = copy_before(path)
        fresh = spare.with_name(f".tmp-{spare.name}-{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        os.link(path, fresh)
        os.replace(fresh, spare)
    write_atomic(path, text)


def put_aside(path: Path) -> Path:
    """Rename a file that cannot be used, so that it is kept. Returns where it is now. Raises OSError."""
    aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    os.replace(path, aside)
    return aside


def read_record(model: type[Model], path: Path) -> Model:
    """A record from its file.

    Raises:
        InputError: there is no such file.
        RecordUnreadable: it cannot be read or understood; the hint names the last good copy.
        RecordNewer: it is of a newer UGRO: its schema is a later one, or it has keys that this one does not know.
    """
    fields: Any = None
    try:
        text = path.read_bytes()
        with contextlib.suppress(ValidationError):  # in a hurry: a start of UGRO reads thousands
            record = model.model_validate_json(text)
            if not isinstance(record, Job) or record.schema_version == SCHEMA_VERSION:
                return record
        fields = json.loads(text)
        json.dumps(fields, ensure_ascii=False).encode()  # half a character that is escaped could not be written again
        refuse_newer(path, fields, own_version(model))
        return model.model_validate(migrated(fields) if model is Job else fields)
    except FileNotFoundError:
        raise InputError(f"there is no {path}", "`ugro status` lists the jobs") from None
    except OSError as error:
        raise RecordUnreadable(path, f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        if _is_known_but_for_keys(model, fields):
            raise RecordNewer(path, keys_in_words(unknown_keys(error)), fields) from None
        raise broken(path, str(first_mistake(error))) from None
    except (ValueError, RecursionError) as error:
        raise broken(path, unparsed(path, error)) from None


def own_version(model: type[BaseModel]) -> int:
    """The schema version that this UGRO writes of a kind of record."""
    field = model.model_fields.get("schema_version")
    return int(field.default) if field else 1


def refuse_newer(path: Path, fields: Any, own: int) -> None:
    """See that a record's fields are of no later schema than this UGRO's own.

    Raises:
        RecordNewer: they are.
    """
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > own:
        raise RecordNewer(path, f"schema_version {version} is not known to this UGRO (it writes {own})", fields)


def unknown_keys(error: ValidationError) -> list[tuple[str | int, ...]]:
    """The places of the keys that a model does not have, in what it refused."""
    return [found["loc"] for found in error.errors(include_url=False) if found["type"] in UNKNOWN_KEY]


def keys_in_words(keys: Iterable[tuple[str | int, ...]]) -> str:
    """Return in words that a record has keys that only a newer UGRO knows."""
    return f"it has keys that are not known here: {some([printable('.'.join(map(str, key))) for key in keys])}"


def known_part(model: type[Model], fields: Any) -> Model:
    """A record without the keys that only a newer UGRO knows, for readers.

    Raises:
        ValidationError: it is no such record without them either.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        if not (unknown := unknown_keys(error)):
            raise
        known = json.loads(json.dumps(fields))
        for place in unknown:
            _remove(known, place)
        return model.model_validate(known)


def _is_known_but_for_keys(model: type[BaseModel], fields: Any) -> bool:
    with contextlib.suppress(ValidationError, ValueError):
        known_part(model, migrated(fields) if model is Job else fields)
        return True
    return False


def _remove(fields: Any, place: Sequence[str | int]) -> None:
    *folders, key = place
    with contextlib.suppress(KeyError, IndexError, TypeError):  # a place in a union has names of its own
        for folder in folders:
            fields = fields[folder]
        del fields[key]


def unparsed(path: Path, error: ValueError | RecursionError) -> str:
    """Return in words why a file's text could not be parsed."""
    if path.stat().st_size == 0:
        return "it is empty"
    match error:
        case json.JSONDecodeError():
            return f"no JSON at line {error.lineno}, column {error.colno}"
        case UnicodeDecodeError():
            return f"no UTF-8 text at byte {error.start}"
        case UnicodeEncodeError():
            return "text that is no Unicode"
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return str(error)


def migrated(fields: Any) -> Any:
    """A job's fields, brought up to the present schema.

    Raises:
        ValueError: the record is of a later version of UGRO.
    """
    while isinstance(fields, dict) and (version := fields.get("schema_version")) != SCHEMA_VERSION:
        if not isinstance(version, int) or version not in MIGRATIONS:
            raise ValueError(f"schema_version {version!r} is not known to this UGRO (it writes {SCHEMA_VERSION})")
        fields = MIGRATIONS[version](fields)
    return fields


def broken(path: Path, detail: str) -> RecordUnreadable:
    """The error for a file that is incomplete or was edited, with the way back."""
    return RecordUnreadable(path, f"{path} is not a valid record: {detail}", _way_back(path))


def lost(path: Path) -> RecordUnreadable:
    """The error for a file that has to be there and is not, with the way back."""
    return RecordUnreadable(path, f"{path} is gone", _way_back(path))


def _way_back(path: Path) -> str:
    """An older copy of a job's record may belong into another index, so a rebuild goes with it."""
    spare, of_job = copy_before(path), path.name == "job.json"
    if of_job and not path.parent.exists():
        return f"put the folder {path.parent} back, or drop the job and its GPUs: ugro state rebuild"
    if spare.exists():
        restore = f"{shlex.join(['cp', str(spare), str(path)])} && " if of_job else ""
        return f"the last good copy, {spare.name}, is of {clock(spare.stat().st_mtime)}: {restore}ugro state rebuild"
    if of_job:
        return f"correct it by hand, or move the folder {path.parent} elsewhere and run `ugro state rebuild`"
    return "correct it by hand, or rebuild what can be rebuilt: ugro state rebuild"


def read_lines(path: Path, model: type[Model]) -> Iterator[Model]:
    """Yield the records of a JSON-lines file; a line that a crash cut short is passed over."""
    if path.exists():
        with path.open("rb") as file:
            yield from whole_lines(iter(lambda: file.readline(LONGEST_LINE), b""), model)


def read_tail(path: Path, model: type[Model], reach: int) -> list[Model]:
    """Return the complete records in the last `reach` bytes of a JSON-lines file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - reach))
        return list(whole_lines(file.read().split(b"\n"), model))


def whole_lines(lines: Iterable[bytes], model: type[Model]) -> Iterator[Model]:
    """Yield the records among JSON lines; a line that a crash cut short is passed over.

    Of one that a newer UGRO wrote, the part that is known here counts.
    """
    for line in lines:
        with contextlib.suppress(ValidationError):
            if (record := _of_line(line, model)) is not None:
                yield record


def _of_line(line: bytes, model: type[Model]) -> Model | None:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        if not unknown_keys(error):
            return None
    with contextlib.suppress(ValueError, RecursionError):  # a number of thousands of digits, say
        return known_part(model, json.loads(line))
    return None


def rewritten(path: Path, records: Iterable[BaseModel], model: type[BaseModel]) -> str:
    """The text of a JSON-lines file with these records. A line that is there already and says the same stays as it is,
    with what only a newer UGRO knows in it.
    """
    there: dict[str, str] = {}
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                for record in whole_lines([line], model):
                    there[record.model_dump_json()] = line.decode("utf-8", "surrogateescape").rstrip("\n")
    lines = (record.model_dump_json() for record in records)
    return "".join(f"{there.get(line, line)}\n" for line in lines)


@contextlib.contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says into an error that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        hint = FULL_HINT if error.errno in FULL else "set UGRO_HOME to a directory on a local disk you can write"
        raise StateError(f"{where}: {error.strerror or error}", hint) from None


def make_home(home: Path) -> None:
    """Make the state directory, with the folder of jobs, if it is not there."""
    with state_errors(jobs := home / JOBS):
        jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
