"""Whether the coordinator sees the nodes that say they serve."""

import asyncio
from collections.abc import Collection

from osai.client.aio import AsyncClient

POLL_INTERVAL_S = 0.1  # a node's word reaches the coordinator within a heartbeat


async def wait_for_members(coordinator: str, node_ids: Collection[str]) -> None:
    """Wait until every node is ready in the coordinator's eyes, so that the swarm serves from then on.

    Args:
        coordinator: HOST:PORT.
        node_ids: whom to wait for; how long is the caller's matter.

    Raises:
        OsaiError: if the coordinator can't be asked.
    """
    async with AsyncClient(coordinator) as client:
        while not set(node_ids) <= await _ready(client):  # noqa: ASYNC110 - nothing tells of a change
            await asyncio.sleep(POLL_INTERVAL_S)


async def _ready(client: AsyncClient) -> set[str]:
    swarm = await client.swarm()
    return {node.node_id for node in swarm.nodes if any(span.state == "ready" for span in node.spans)}
