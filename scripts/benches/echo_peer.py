"""The other end of bench `hop`: a stage that echoes, a bare gRPC stream that echoes, a TCP socket that echoes.

python -m scripts.benches.echo_peer reads one line, `{"first": STAGE, "private": {"first": STAGE, "bundle": ...}}`: the
first stage in a public and in a private swarm, each `{"node_id": ..., "address": "HOST:PORT"}`. It says where its own
listen, and runs until standard input ends.
"""

import asyncio
import json
import sys

import uvloop
from scripts.benches.echo_stage import echo, echo_stage, open_session
from scripts.benches.private_pair import Bundle
from scripts.benches.raw_echo import grpc_echo_server, tcp_echo_server

from osai.core.layers import LayerRange
from osai.node.stages.stage import Peer

NODE_ID = "second"
LAYERS = LayerRange(2, 3)


async def main() -> None:
    """Echo until standard input ends."""
    asked = json.loads(await asyncio.to_thread(sys.stdin.readline))
    first, private_first = Peer(**asked["first"]), Peer(**asked["private"]["first"])
    tls = Bundle(**asked["private"]["bundle"]).tls()
    async with (
        echo_stage(NODE_ID, LAYERS, echo) as (ring, me),
        echo_stage(tls.me.member_id, LAYERS, echo, tls) as (private_ring, private_me),
        tcp_echo_server() as tcp,
        grpc_echo_server() as bare,
    ):
        await open_session(ring, LAYERS, first)
        await open_session(private_ring, LAYERS, private_first)
        told = {"edge": me.address, "private": private_me.address, "tcp": tcp, "grpc": bare}
        print(json.dumps(told), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
