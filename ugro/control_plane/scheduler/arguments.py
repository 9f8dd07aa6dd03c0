"""Arguments of a script on its command line: finds them, and gives them other values. Pure.

An argument that the command line has already is changed where it stands; one that it lacks is only added under a name
that the script itself has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ugro.common.errors import InputError
from ugro.common.models.argument_change import ArgumentChange

TRAINER_PARSERS = ("HfArgumentParser", "TrainingArguments", "LightningCLI")
"""Parsers that read options which the script's own text does not name."""


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


def with_places(commands: Sequence[tuple[Sequence[str], Mapping[str, str]]]) -> tuple[str, ...]:
    """Return the one command that jobs of a sweep have in common, with `{name}` where each has its own value.

    Each command comes with its values by argument. A word that differs otherwise is `…`.
    """
    named = [_named(words, values) for words, values in commands]
    first = named[0]
    if any(len(one) != len(first) for one in named):  # one of them was edited
        return tuple(first)
    found = []
    for words in zip(*named, strict=True):
        of_each = list(zip(words, (values for _, values in commands), strict=True))
        candidates = (_placed(word, values) for word, values in of_each)  # of one job, two values may be equal
        fitting = (one for one in candidates if all(_filled(one, values) == word for word, values in of_each))
        found.append(words[0] if len(set(words)) == 1 else next(fitting, "…"))
    return tuple(found)


def _named(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return a command with `{name}` as the value of each option of that name that has it."""
    found = list(words)
    for name, value in values.items():
        given = find(found, name)
        if given and given[2] == value:
            index, place = given[0], "{" + name + "}"
            if "=" in found[index]:
                found[index] = f"{found[index].partition('=')[0]}={place}"
            else:
                found[index + 1] = place
    return found


def _placed(word: str, values: Mapping[str, str]) -> str:
    for name, value in sorted(values.items(), key=lambda item: -len(item[1])):
        word = word.replace(value, "{" + name + "}")
    return word


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace("{" + name + "}", value)
    return word


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\d+(?:\.\d+)?(?:[eE]-?\d+)?", word)
