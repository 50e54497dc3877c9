"""The other end of bench `hop`: a stage that echoes, a bare gRPC stream that echoes, a TCP socket that echoes.

python -m scripts.benches.echo_peer reads one line, `{"node_id": ..., "address": "HOST:PORT"}` of the first stage, says
where each listens, and runs until standard input ends.
"""

import asyncio
import json
import sys

import uvloop
from scripts.benches.echo_stage import echo, echo_stage, open_session
from scripts.benches.raw_echo import grpc_echo_server, tcp_echo_server

from osai.core.layers import LayerRange
from osai.node.stages.stage import Peer

NODE_ID = "second"
LAYERS = LayerRange(2, 3)


async def main() -> None:
    """Echo until standard input ends."""
    first = Peer(**json.loads(await asyncio.to_thread(sys.stdin.readline)))
    async with (
        echo_stage(NODE_ID, LAYERS, echo) as (ring, me),
        tcp_echo_server() as tcp,
        grpc_echo_server() as bare,
    ):
        await open_session(ring, LAYERS, first)
        print(json.dumps({"edge": me.address, "tcp": tcp, "grpc": bare}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
