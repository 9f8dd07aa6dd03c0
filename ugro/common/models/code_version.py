"""The code that a job runs."""

from __future__ import annotations

from ugro.common.models.value import Value


class CodeVersion(Value):
    """The snapshot of the working directory that a job runs; git fields are `null` outside git."""

    directory: str
    """Where it came from."""
    files: int
    """Number of files."""
    size_bytes: int
    """Size of all files."""
    git_commit: str | None = None
    """Commit that was checked out."""
    git_dirty: bool | None = None
    """Whether it differed from that commit."""
    attempt: int = 1
    """First attempt that ran it."""
    digest: str | None = None
    """Digest of the list of its files, as `code.sha256` on the nodes; `null`: an earlier UGRO took the snapshot."""
