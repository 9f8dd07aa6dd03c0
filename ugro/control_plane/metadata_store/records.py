"""Reading records so that a broken file is named with the way back, and older schemas are brought up to date."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from ugro.common.errors import InputError, RecordUnreadable, StateError
from ugro.common.files import FULL, FULL_HINT, write_atomic
from ugro.common.models import SCHEMA_VERSION, Job
from ugro.common.text import clock

Model = TypeVar("Model", bound=BaseModel)
Fields = dict[str, Any]
OnUnreadable = Callable[[RecordUnreadable], object]
"""What to do about one unreadable record among many, as `os.walk` takes its `onerror`."""


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
"""More bytes than a line of JSON has; longer ones are passed over like torn ones, in parts."""


def stop_at(error: RecordUnreadable) -> NoReturn:
    """For those who act: what the record would have said may matter."""
    raise error


def pass_over(error: RecordUnreadable) -> None:
    """For those who need only what can be read, where somebody else tells of the rest."""


def copy_before(path: Path) -> Path:
    """Where the content of a record before its last change is kept."""
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


def read_record(model: type[Model], path: Path) -> Model:
    """A record from its file.

    Raises:
        InputError: there is no such file.
        RecordUnreadable: it cannot be read or understood; the hint names the last good copy.
    """
    try:
        text = path.read_bytes()
        with contextlib.suppress(ValidationError):  # in a hurry: a start of UGRO reads thousands
            record = model.model_validate_json(text)
            if not isinstance(record, Job) or record.schema_version == SCHEMA_VERSION:
                return record
        fields = json.loads(text)
        return model.model_validate(migrated(fields) if model is Job else fields)
    except FileNotFoundError:
        raise InputError(f"there is no {path}", "`ugro status` lists the jobs") from None
    except OSError as error:
        raise RecordUnreadable(path, f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise broken(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")) from None
    except (ValueError, RecursionError) as error:
        raise broken(path, str(error) if text_is_there(path) else "it is empty") from None


def text_is_there(path: Path) -> bool:
    """Whether a file has any content."""
    return path.stat().st_size > 0


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
    """The error for a file that was torn or edited, with the way back."""
    return RecordUnreadable(path, f"{path} is not a valid record: {detail}", _way_back(path))


def lost(path: Path) -> RecordUnreadable:
    """The error for a file that has to be there and is not, with the way back."""
    return RecordUnreadable(path, f"{path} is gone", _way_back(path))


def _way_back(path: Path) -> str:
    """An older copy of a job's record may belong into another index, so a rebuild goes with it."""
    spare, of_job = copy_before(path), path.name == "job.json"
    if of_job and not path.parent.exists():
        return f"put the folder {path.parent} back, or let go of the job and what it holds: ugro state rebuild"
    if spare.exists():
        restore = f"{shlex.join(['cp', str(spare), str(path)])} && " if of_job else ""
        return f"the last good copy, {spare.name}, is of {clock(spare.stat().st_mtime)}: {restore}ugro state rebuild"
    if of_job:
        return f"mend it by hand, or move the folder {path.parent} elsewhere and run `ugro state rebuild`"
    return "mend it by hand, or have it made anew as far as that goes: ugro state rebuild"


def read_lines(path: Path, model: type[Model]) -> Iterator[Model]:
    """The records of a JSON-lines file; a line that a crash tore is passed over."""
    if path.exists():
        with path.open("rb") as file:
            yield from whole_lines(iter(lambda: file.readline(LONGEST_LINE), b""), model)


def read_tail(path: Path, model: type[Model], reach: int) -> list[Model]:
    """The records that are whole in the last `reach` bytes of a JSON-lines file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - reach))
        return list(whole_lines(file.read().split(b"\n"), model))


def whole_lines(lines: Iterable[bytes], model: type[Model]) -> Iterator[Model]:
    """The records among JSON lines; a line that a crash tore is passed over."""
    for line in lines:
        with contextlib.suppress(ValidationError):
            yield model.model_validate_json(line)


@contextlib.contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says into an error that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        hint = FULL_HINT if error.errno in FULL else "set UGRO_HOME to a directory on a local disk you can write"
        raise StateError(f"{where}: {error.strerror or error}", hint) from None
