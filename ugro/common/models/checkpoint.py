"""A checkpoint on a node, and over all nodes."""

from pathlib import PurePosixPath

from ugro.common.models.place import Place
from ugro.common.models.record import Record
from ugro.common.text import position_in_words


class FoundCheckpoint(Record):
    """A checkpoint as one node has it. `path` is absolute there, `name` below the directory that was searched.

    `saved_at` is in the node's clock; `problem` says what is incomplete.

    `kind` is transformers, lightning, torch, distributed, deepspeed, folder or ranks. If its parts are
    on the nodes of their ranks, `shards` names those here, and `needs` all of them where that is known. Of
    kind `ranks` each rank has a file or folder of its own: `name` has `{rank}` where they differ, and `path` is the
    folder that the first such part of `name` is in.

    `step` and `epoch` are from its name or its content. `begun_at` is when the oldest of its files was written.
    `model_parallel` is the number of model-parallel ranks that it names, `finished` whether the tool that saved it
    recorded its end. `weights_only`: it has no optimizer state.
    """

    path: str
    name: str
    kind: str
    step: int | None
    bytes: int
    files: int
    saved_at: float
    problem: str | None = None
    shards: tuple[str, ...] = ()
    needs: tuple[str, ...] | None = None
    epoch: int | None = None
    begun_at: float | None = None
    model_parallel: int | None = None
    finished: bool = False
    weights_only: bool = False


class Checkpoint(Record):
    """A checkpoint of a job, over all nodes. `saved_at` is in the master's clock.

    Each of the `places` has all of it, or a part if it is `split`. Without places, only the master has it (kind
    `copy`). One with a `problem` is incomplete, or cannot be proven complete, and is never offered.

    `attempt` saved it (None: not recorded by an earlier UGRO). `other_branch`: the latest attempt does not descend from
    that one. `ranks` is how many ranks have a part of their own in it; only the same number can resume from it.
    `weights_only`: it has no optimizer state.
    """

    step: int | None
    kind: str
    name: str
    bytes: int
    saved_at: float
    places: tuple[Place, ...]
    split: bool = False
    problem: str | None = None
    epoch: int | None = None
    attempt: int | None = None
    other_branch: bool = False
    ranks: int | None = None
    weights_only: bool = False

    @property
    def position(self) -> int | None:
        """Return its progress: its step, else its epoch."""
        return self.epoch if self.step is None else self.step

    @property
    def where(self) -> str:
        """Return `step 20`, or `epoch 3` if no step is known."""
        return position_in_words(self.step, self.epoch)

    @property
    def label(self) -> str:
        """Return the folder name of its copy on the master: `20-attempt-2`."""
        told = {"epoch": self.epoch, "attempt": self.attempt}
        step = () if self.step is None else (str(self.step),)
        return "-".join([*step, *(f"{name}-{number}" for name, number in told.items() if number is not None)])

    @property
    def own_name(self) -> str:
        """Return its name without parent folders; for kind `ranks` from where the ranks differ."""
        parts = PurePosixPath(self.name).parts
        first = next((index for index, part in enumerate(parts) if "{" in part), -1) if self.of_each_rank else -1
        return "/".join(parts[first:])

    @property
    def of_each_rank(self) -> bool:
        """Return whether its name has `{rank}` in the place of each rank's number."""
        return self.kind == "ranks"

    @property
    def whole_at(self) -> dict[str, str]:
        """Return its path on each node that has all of it."""
        tail = f"/{self.own_name}" if self.of_each_rank else ""
        return {} if self.split else {place.node: place.path + tail for place in self.places}
