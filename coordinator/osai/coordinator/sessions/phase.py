"""What a session is at."""

from enum import Enum


class Phase(Enum):
    """Of one session, from its start to its end."""

    OPENING = "opening"  # stages are to say that they are open
    RUNNING = "running"
    LOOKING = "looking"  # for a pipeline
    OVER = "over"
