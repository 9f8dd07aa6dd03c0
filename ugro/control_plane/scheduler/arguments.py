"""Arguments of a script on its command line: finds them, and gives them other values. Pure.

An argument that the command line has already is changed where it stands; one that it lacks is only added under a name
that the script itself has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ugro.common.errors import InputError
from ugro.common.models.proposal import ArgumentChange

TRAINER_PARSERS = ("HfArgumentParser", "TrainingArguments", "LightningCLI")
"""What reads options without the script's own text naming them."""


def with_changes(
    args: Sequence[str], wanted: Mapping[str, str], known: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[ArgumentChange, ...]]:
    """The arguments with others values, and what changed. `wanted` is by name, with or without dashes.

    `known` has the options of the script, as it spells them; with it an argument that was not given has to be one.

    Raises:
        InputError: the script has no such argument.
    """
    words, changes = list(args), []
    for name, value in wanted.items():
        found = find(words, name)
        if found is not None:
            index, spelled, before = found
            if before == value:
                continue
            if "=" in words[index]:
                words[index] = f"{words[index].partition('=')[0]}={value}"
            else:
                words[index + 1] = value
            changes.append(ArgumentChange(name=spelled, before=before, after=value))
            continue
        declared = next((option for option in known if plain(option) == plain(name)), None)
        if known and declared is None:
            raise InputError(f"the script has no argument {name!r}", f"it has {', '.join(known[:12])}")
        added = declared or f"--{name.lstrip('-')}"
        words += [added, value]
        changes.append(ArgumentChange(name=added, before=None, after=value))
    return tuple(words), tuple(changes)


def options_of(script: str) -> tuple[str, ...]:
    """The options that a Python script declares, as far as its text shows them (argparse, click, typer, tyro)."""
    return tuple(dict.fromkeys(re.findall(r"""['"](--[A-Za-z][\w-]*)['"]""", script)))


def declared(script: str) -> tuple[str, ...]:
    """Return the options of a script that may be added; none when a library declares them, so that all may be meant."""
    return () if any(parser in script for parser in TRAINER_PARSERS) else options_of(script)


def plain(name: str) -> str:
    """Return an argument's name without what is written in several ways: dashes, case."""
    return name.lstrip("-").replace("-", "_").lower()


def find(args: Sequence[str], name: str) -> tuple[int, str, str] | None:
    """Return where an argument stands last, how it is spelled, and its value. The last one counts to argparse."""
    for index in range(len(args) - 1, -1, -1):
        word = args[index]
        spelled, equals, value = word.partition("=")
        dashed = spelled.startswith("-")
        if not (dashed or equals) or plain(spelled) != plain(name):  # `training.batch_size=4`, as hydra has it
            continue
        if equals:
            return index, spelled, value
        if index + 1 < len(args) and not _is_option(args[index + 1]):
            return index, spelled, args[index + 1]
    return None


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\d+(?:\.\d+)?(?:[eE]-?\d+)?", word)
