"""What a member imports before it serves: imported once, in the process that members are forked from.

No thread may start and no connection may open by an import: neither survives a fork. `forked` checks the threads.
"""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # read once, by the import of torch; threads of OpenMP would fight for the cores
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import osai.coordinator.run
import osai.node.run  # noqa: F401

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as one of a group, of `timeout`: whoever forks ends the members first
