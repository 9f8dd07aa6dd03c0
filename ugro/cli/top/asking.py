"""Asks the service layer beside the screen: each question in a thread of its own, by a way of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from ugro.cli.app import App
from ugro.common.errors import UgroError
from ugro.service.backend import Backend
from ugro.service.schemas.base import Request, Stream
from ugro.service.schemas.live import LiveSnapshot, LiveView, Watch
from ugro.service.schemas.logs import Follow, FollowUpdate

Answer = TypeVar("Answer")

AGAIN = (1.0, 2.0, 5.0, 10.0)
"""Seconds before it is asked again after the contact was lost, the last of them from then on."""


class Asking:
    """The threads of one screen. They end with it: none keeps the process."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._ended = threading.Event()

    def end(self) -> None:
        """Have every thread end at its next item."""
        self._ended.set()

    def watch(self, every: float, take: Callable[[LiveView], None], lost: Callable[[UgroError], None]) -> None:
        """Hand over each new view of the cluster; after an error, which `lost` hears, ask again."""

        def work() -> None:
            failed = 0
            while not self._ended.is_set():
                try:
                    for view in self._views(every):
                        failed = 0
                        take(view)
                except UgroError as error:
                    lost(error)
                    self._ended.wait(AGAIN[min(failed, len(AGAIN) - 1)])
                    failed += 1

        self._begin(work, "watch")

    def follow(
        self, job: str, take: Callable[[FollowUpdate], None], failed: Callable[[UgroError], None]
    ) -> Callable[[], None]:
        """Hand over what a job prints from its last lines on; return what ends that."""
        enough = threading.Event()

        def work() -> None:
            try:
                with closing(self._items(Follow(job=job, tail=500))) as updates:
                    for update in updates:
                        if enough.is_set():
                            return
                        take(update)
            except UgroError as error:
                failed(error)

        self._begin(work, f"follow {job}")
        return enough.set

    def call(
        self, request: Request[Answer], done: Callable[[Answer], None], failed: Callable[[UgroError], None]
    ) -> None:
        """Ask once; one of the two hears what came of it."""

        def work() -> None:
            try:
                with self._backend() as backend:
                    answer = backend.call(request)
            except UgroError as error:
                failed(error)
            else:
                done(answer)

        self._begin(work, "call")

    def _views(self, every: float) -> Iterator[LiveView]:
        view: LiveView | None = None
        for update in self._items(Watch(every=every)):
            if isinstance(update, LiveSnapshot):
                view = update.data
            elif view is not None:
                view = view.with_changes(update.data)
            if view is not None:
                yield view

    def _items(self, request: Stream[Answer]) -> Generator[Answer, None, None]:
        """Yield the items of an answer until the screen ends."""
        with self._backend() as backend, closing(backend.stream(request)) as items:
            for item in items:
                if self._ended.is_set():
                    return
                yield item

    @contextmanager
    def _backend(self) -> Iterator[Backend]:
        backend = self._app.beside()
        try:
            yield backend
        finally:
            backend.close(rest=False)

    def _begin(self, work: Callable[[], None], name: str) -> None:
        threading.Thread(target=work, name=f"ugro top: {name}", daemon=True).start()
