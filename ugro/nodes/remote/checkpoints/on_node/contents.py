"""Reads what is in a checkpoint's files, and whether they are complete. Nothing is unpickled: archives are read by
their structure alone.

torch.save writes a zip whose directory is its last part (torch/csrc, caffe2/serialize/inline_container.cc); safetensors
has the length of its header first and offsets in it (huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import struct
import zipfile
from typing import Any

HEADER_LIMIT = 100 * 1024 * 1024
"""The longest header of safetensors, as its own reader has it."""
PICKLE_LIMIT = 64 * 1024 * 1024
MARK_ENDS = {"APPENDS", "SETITEMS", "ADDITEMS", "TUPLE", "LIST", "DICT", "FROZENSET", "INST", "OBJ", "POP_MARK"}
OPTIMIZER = re.compile(rb"optim|exp_avg|momentum_buffer|param_groups", re.IGNORECASE)
"""What a pickle, or the header of safetensors, has in it where the state of an optimizer is."""


class Torn(Exception):
    """The checkpoint is not whole, in words."""


def torch_file(path: str) -> None:
    """A file that torch.save wrote: a zip that has its directory, and room for every entry in it."""
    if os.path.getsize(path) == 0:
        raise Torn("is empty")
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80":
        raise Torn("is in the format before torch 1.6, which does not show whether it is complete")
    try:
        with zipfile.ZipFile(path) as archive:
            size = os.path.getsize(path)
            for entry in archive.infolist():
                if entry.header_offset + entry.compress_size > size:
                    raise Torn("ends before its contents do")
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error):
        raise Torn("was cut short: it has no directory at its end") from None


def safetensors_file(path: str) -> None:
    """A file of safetensors: its header says how long it is."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER_LIMIT
        if length >= HEADER_LIMIT or 8 + length > size:
            raise Torn("was cut short: its header is incomplete")
        try:
            header = json.loads(file.read(length))
            ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise Torn("has a header that makes no sense") from None
    told = 8 + length + max(ends, default=0)
    if told != size:
        raise Torn(f"has {size} bytes, and its header speaks of {told}")


def one_file(path: str) -> None:
    """Require that a file of weights is complete, by its kind. A pickle's end is unknown, so `.bin` may be one."""
    if not os.path.isfile(path):
        raise Torn("is not there")
    if path.endswith(".safetensors"):
        safetensors_file(path)
    elif not path.endswith(".distcp"):
        torch_file(path)


def whole(paths: list[str], root: str) -> None:
    for path in paths:
        try:
            one_file(path)
        except Torn as torn:
            raise Torn(f"{os.path.relpath(path, root)} {torn}") from None


def read_json(path: str) -> Any:
    if not os.path.isfile(path):  # or it is a pipe, which would keep us waiting
        raise Torn(f"{os.path.basename(path)} is not there")
    try:
        with open(path, encoding="utf-8") as file:
            return json.loads(file.read(HEADER_LIMIT))
    except (OSError, ValueError, RecursionError):
        raise Torn(f"{os.path.basename(path)} is incomplete") from None


def content(path: str) -> str:
    """The beginning of a text file; empty where there is none."""
    if not os.path.isfile(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(100)


def strings(path: str) -> set[str]:
    """The texts in a pickle, which is read as a list of operations and never carried out."""
    if os.path.getsize(path) > PICKLE_LIMIT:
        return set()
    try:
        with open(path, "rb") as file:
            return {arg for _, arg, _ in pickletools.genops(file) if isinstance(arg, str)}
    except (ValueError, OSError, EOFError, UnicodeDecodeError):
        raise Torn(f"{os.path.basename(path)} is incomplete") from None


def pickle_of(path: str) -> bytes:
    """The pickle in a file of torch.save, which is read and never carried out; empty where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return b"" if archive.getinfo(name).file_size > PICKLE_LIMIT else archive.read(name)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        return b""


def optimizes(path: str) -> bool:
    """Whether a file of torch.save or of safetensors has something of an optimizer in it, as far as its names show."""
    if not path.endswith(".safetensors"):
        return bool(OPTIMIZER.search(pickle_of(path)))
    with open(path, "rb") as file:
        return bool(OPTIMIZER.search(file.read(struct.unpack("<Q", file.read(8))[0])))


def inside(path: str) -> dict[str, int]:
    """The whole numbers that a file has by name: those nearest to the surface of a dictionary that torch.save wrote, or
    in the metadata of safetensors, which are texts."""
    try:
        if not path.endswith(".safetensors"):
            return numbers(pickle_of(path))
        with open(path, "rb") as file:
            told = json.loads(file.read(struct.unpack("<Q", file.read(8))[0])).get("__metadata__", {})
        return {name.lower(): int(text) for name, text in told.items() if re.match(r"^\d{1,15}$", str(text))}
    except (ValueError, EOFError, IndexError, AttributeError):
        return {}


def numbers(pickled: bytes) -> dict[str, int]:
    """The whole numbers that follow a text in a pickle: of each text the least nested one, the first of several."""
    found: dict[str, tuple[int, int]] = {}
    memo: dict[int, str | None] = {}
    text, depth = None, 0
    for operation, arg, _ in pickletools.genops(pickled):
        if isinstance(arg, str) and "UNICODE" in operation.name:
            text = arg.lower()
        elif isinstance(arg, int) and operation.name in ("BINGET", "LONG_BINGET"):
            text = memo.get(arg)  # a text that was there before
        elif operation.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = text
        elif isinstance(arg, int) and "INT" in operation.name and text is not None:
            if text not in found or depth < found[text][0]:
                found[text] = depth, arg
            text = None
        else:
            text = None
        if operation.name == "MARK":
            depth += 1
        elif operation.name in MARK_ENDS:
            depth -= 1
    return {name: number for name, (_, number) in found.items()}
