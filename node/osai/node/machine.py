"""What is set of the machine before torch is imported."""

import os

from osai.node.cores import bind_to_numa_node, thread_environment


def prepare_cores(numa: int | None) -> None:
    """Set what torch's threads read when they start, and take to one NUMA node if that is wanted.

    Raises:
        SetupError: if there is no such node, or it may not be used.
    """
    os.environ.update(thread_environment())
    if numa is not None:
        bind_to_numa_node(numa)
