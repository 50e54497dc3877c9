"""Libraries that would write log lines of their own make, brought under osai's handler."""

import logging

from hivemind.utils.logging import use_hivemind_log_handler


def adopt_library_logs() -> None:
    """Let hivemind's warnings come as every other line does; to be called once `configure_logs` has been."""
    use_hivemind_log_handler("nowhere")
    logging.getLogger("hivemind").setLevel(logging.WARNING)
