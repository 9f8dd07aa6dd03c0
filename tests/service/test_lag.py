"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time

from ugro.service import lag
from ugro.service.lag import LoopLag


async def test_notices_what_holds_the_loop_up() -> None:
    late = LoopLag()
    assert late.quantile(0.99) is None
    watching = asyncio.create_task(late.watch())
    await asyncio.sleep(0)
    time.sleep(2 * lag.EVERY)
    while late.quantile(1.0) is None:
        await asyncio.sleep(lag.EVERY / 10)
    assert (late.quantile(1.0) or 0) >= lag.EVERY / 2
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def test_quantiles_are_those_of_the_samples() -> None:
    late = LoopLag()
    late._late.extend(range(1, 101))
    assert [late.quantile(share) for share in (0.0, 0.01, 0.5, 0.99, 1.0)] == [1, 1, 50, 99, 100]
