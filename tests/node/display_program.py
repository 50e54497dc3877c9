"""A node's display, with what a node would show: for a terminal of a test's own."""

import asyncio
import logging
import sys
import threading

from osai.core.logs import configure_logs
from osai.node.display import NodeDisplay
from osai.node.figures import Figures

MIB = 2**20


async def main() -> None:
    """Load, serve, log a line meanwhile, load something else, and end."""
    display, asked = NodeDisplay(), asyncio.Event()
    display.found(["device: of a test"])
    display.num_blames = lambda: 2
    threads = [threading.Thread(target=display, args=(done * MIB, 8 * MIB)) for done in range(9)]
    for thread in threads:
        thread.start()
        thread.join()
    sys.stdout.write("serving layers 0:6\n")
    sys.stdout.flush()

    def read() -> Figures:
        asked.set()
        return Figures(num_sessions=1, num_tokens=1000, num_peers=1)

    following = asyncio.create_task(display.follow(read))
    await asked.wait()  # what was read is shown before the loop goes on
    logging.getLogger("osai.tested").warning("said in between")
    display(MIB, 2 * MIB)
    display(2 * MIB, 2 * MIB)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    sys.stdout.write("left\n")
    sys.stdout.flush()


if __name__ == "__main__":
    configure_logs("info", "json" if sys.argv[-1:] == ["json"] else "text")
    asyncio.run(main())
