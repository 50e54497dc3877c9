"""How exact a delaying relay is: an echo through it, with and without delay."""

import asyncio
from contextlib import AsyncExitStack
from statistics import median

from scripts.benches.raw_echo import TcpPing, tcp_echo_server
from scripts.benches.relay import Relay

MESSAGE = bytes(16 * 2**10)
DEADLINE_S = 60.0


async def one_way_s(delay_s: float, num_round_trips: int = 15) -> float:
    """Seconds that a relay of `delay_s` adds to each way of an echo of 16 KiB: half of the medians' difference.

    Raises:
        TimeoutError: if the echo does not come back within a minute.
    """
    async with AsyncExitStack() as stack:
        relay = Relay(await stack.enter_async_context(tcp_echo_server()))
        address = await stack.enter_async_context(relay.laid())
        ping = await stack.enter_async_context(TcpPing.dial(address, MESSAGE))
        async with asyncio.timeout(DEADLINE_S):
            bare = [await ping.round_trip() for _ in range(num_round_trips)]
            relay.delay_s = delay_s
            delayed = [await ping.round_trip() for _ in range(num_round_trips)]
    return (median(delayed) - median(bare)) / 2
