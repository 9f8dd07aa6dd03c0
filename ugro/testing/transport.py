"""Nodes that are this machine, or simulate one, and do what tests are about: become unreachable, count, lie."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Sequence
from typing import Any

from ugro.common.config import NodeConfig
from ugro.common.errors import PortClosed, Unreachable
from ugro.nodes.transport import LocalTransport, Outcome, Output, Transport
from ugro.nodes.transport.base import ByteReader, ByteWriter


class Silencing(LocalTransport):
    """A node that can be silent."""

    silent = False

    async def run(
        self, script: str, args: Sequence[str] = (), *, data: bytes | AsyncIterable[bytes] | None = b"", **options: Any
    ) -> Outcome:
        self._hear()
        return await super().run(script, args, data=data, **options)

    async def ask(self, script: str, args: Sequence[str] = (), **options: Any) -> Outcome:
        self._hear()
        return await super().ask(script, args, **options)

    def _hear(self) -> None:
        if self.silent:
            raise Unreachable(self.name, "does not answer")


class Gone(Silencing):
    """A node that answers nothing."""

    silent = True


class Counting(LocalTransport):
    """A node that counts what it is asked, sent and made to say."""

    def __init__(self, node: NodeConfig) -> None:
        super().__init__(node)
        self.asks = 0
        """Questions to the kept shell."""
        self.sent: list[int] = []
        """Bytes of data that each script got; -1 where they came piece by piece."""
        self.said = 0
        """Bytes that were handed over as they came."""

    async def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        data: bytes | AsyncIterable[bytes] | None = b"",
        on_output: Output | None = None,
        **options: Any,
    ) -> Outcome:
        def count(stream: str, output: bytes) -> None:
            self.said += len(output)
            if on_output:
                on_output(stream, output)

        self.sent.append(len(data) if isinstance(data, bytes) else -1)
        return await super().run(script, args, data=data, on_output=count if on_output else None, **options)

    async def ask(self, script: str, args: Sequence[str] = (), **options: Any) -> Outcome:
        self.asks += 1
        return await super().ask(script, args, **options)


class Meddling(LocalTransport):
    """A node where something happens just before a script that has a certain word among its arguments."""

    def __init__(self, node: NodeConfig, word: str, meddle: Callable[[], object]) -> None:
        super().__init__(node)
        self._word, self._meddle = word, meddle

    async def run(
        self, script: str, args: Sequence[str] = (), *, data: bytes | AsyncIterable[bytes] | None = b"", **options: Any
    ) -> Outcome:
        if self._word in args:
            self._meddle()
        return await super().run(script, args, data=data, **options)


class Parrot(Transport):
    """A node that gives the same answer to everything, whatever sense that makes."""

    peer_address = None

    def __init__(self, answer: bytes, status: int = 0) -> None:
        super().__init__(NodeConfig(name="gpu1", address="gpu1"))
        self._answer, self._status, self._patience = answer, status, 50

    async def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        data: bytes | AsyncIterable[bytes] | None = b"",
        timeout: float | None = 30.0,
        on_output: Output | None = None,
    ) -> Outcome:
        self._patience -= 1
        assert self._patience > 0, "it asks for ever"
        answer = self._answer
        if data is not None and not isinstance(data, bytes):
            async for _ in data:
                if on_output:
                    on_output("stdout", answer)
        elif on_output:
            on_output("stdout", answer)
        return Outcome(self._status, b"" if on_output else answer)

    async def ask(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        timeout: float = 20.0,
        on_output: Output | None = None,
    ) -> Outcome:
        return await self.run(script, args, timeout=timeout, on_output=on_output)

    async def connect(self, port: int) -> tuple[ByteReader, ByteWriter]:
        raise PortClosed(self.name, f"no connection to its port {port}: it only repeats what it was taught")

    async def close(self) -> None: ...
