"""Crash boundaries: an error of one job, node or table is logged and reported, and stops nothing else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator

from ugro.common.errors import InternalError, StateError, UgroError

log = logging.getLogger(__name__)

REMEMBERED = 1000
"""So many different surprises are known at a time, each of which is logged with its traceback once."""

_logged: set[tuple[str, str]] = set()


def trouble_of(what: str, error: Exception, job: str = "") -> UgroError:
    """Return the error to report for an exception. The traceback of a bug is logged the first time."""
    if isinstance(error, UgroError):
        return error
    name = type(error).__name__
    key = (what, f"{name}: {error}")
    if key in _logged:
        log.debug("%s: %s again", what, name)
    else:
        if len(_logged) >= REMEMBERED:
            _logged.clear()
        _logged.add(key)
        log.error("%s: %s", what, name, exc_info=error)
    if isinstance(error, OSError):  # no code below gave a better reason than the disk's
        return StateError(f"{what}: {error}")
    return InternalError(what, name, job)


class Troubles:
    """What went wrong in several places of which none stops the others."""

    def __init__(self) -> None:
        self.found: list[UgroError] = []

    @contextlib.contextmanager
    def boundary(self, what: str, job: str = "") -> Iterator[None]:
        """Around one of many things to do, which is about that job alone: what it raises is kept."""
        try:
            yield
        except Exception as error:
            self.found.append(trouble_of(what, error, job))

    def raise_first(self, tell: Callable[[UgroError], None], jobs: Collection[str] = ()) -> None:
        """Raise the first of them, if any, and tell the others, as far as no node is all that they are about.

        A caller that acts for some `jobs` hears of bugs that stop others.
        """
        found, self.found = self.found, []
        of_others = [one for one in found if jobs and isinstance(one, InternalError) and one.job not in ("", *jobs)]
        found = [one for one in found if one not in of_others]
        for error in [*of_others, *found[1:]]:
            if isinstance(error, (StateError, InternalError)):
                tell(error)
        if found:
            raise found[0]
