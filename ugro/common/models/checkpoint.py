"""A checkpoint on a node, and over all nodes."""

from __future__ import annotations

from pathlib import PurePosixPath

from ugro.common.models.record import Record


class FoundCheckpoint(Record):
    """A checkpoint as one node has it. `path` is absolute there, `name` below the directory that was searched.

    `saved_at` is in the node's clock; `problem` says what is torn.

    `kind` is transformers, lightning, torch, distributed, deepspeed, folder or ranks. Of a checkpoint whose parts lie
    on the nodes of their ranks, `shards` names those that are here, and `needs` all there are where that is known. Of
    kind `ranks` each rank has a file or folder of its own: `name` has `{rank}` where they differ, and `path` is the
    folder that the first such part of `name` is in.

    `step` and `epoch` are told by its name or its content. `begun_at` is when the oldest of its files was written.
    `model_parallel` is the number of model-parallel ranks that it says it was saved by, `finished` whether the tool
    that saved it noted its end, `weights_only` that nothing in it belongs to an optimizer.
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


class Place(Record):
    """Where a checkpoint lies: an absolute path on a node; of kind `ranks` a folder, and the `files` of it below."""

    node: str
    path: str
    files: tuple[str, ...] = ()


class Checkpoint(Record):
    """A checkpoint of a job, over all nodes. `saved_at` is in the master's clock.

    Each of the `places` has the whole of it, or, where it is `split`, only a part; none: only the master has it (kind
    `copy`). One with a `problem` is torn, or cannot be shown to be whole, and is never offered.

    `attempt` is the one that saved it (None: an earlier UGRO did not say); with `other_branch` it is none that the
    job's latest attempt goes back to. `ranks` is how many ranks have a part of their own in it, so that only as many
    can go on from it. `weights_only`: nothing in it belongs to an optimizer.
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
        """How far it is: its step, else its epoch."""
        return self.epoch if self.step is None else self.step

    @property
    def where(self) -> str:
        """For people: `step 20`, or `epoch 3` where nothing tells of a step."""
        return position_in_words(self.step, self.epoch)

    @property
    def label(self) -> str:
        """The name of the folder that a copy of it has on the master: `20-attempt-2`."""
        told = {"epoch": self.epoch, "attempt": self.attempt}
        step = () if self.step is None else (str(self.step),)
        return "-".join([*step, *(f"{name}-{number}" for name, number in told.items() if number is not None)])

    @property
    def own_name(self) -> str:
        """Its name alone, whatever it lies in; of kind `ranks` it begins where the ranks differ."""
        parts = PurePosixPath(self.name).parts
        first = next((index for index, part in enumerate(parts) if "{" in part), -1) if self.of_each_rank else -1
        return "/".join(parts[first:])

    @property
    def of_each_rank(self) -> bool:
        """Whether its name has `{rank}` in the place of each rank's number."""
        return self.kind == "ranks"

    @property
    def whole_at(self) -> dict[str, str]:
        """The path of it on each node that has all of it."""
        tail = f"/{self.own_name}" if self.of_each_rank else ""
        return {} if self.split else {place.node: place.path + tail for place in self.places}


def position_in_words(step: int | None, epoch: int | None) -> str:
    """Return `step 20`, or `epoch 3` where no step is known."""
    return f"epoch {epoch}" if step is None and epoch is not None else f"step {step}"
