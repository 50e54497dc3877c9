"""Log lines of osai's programs: plain text on standard error."""

import logging
import os

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
QUIET = ("hivemind", "httpx", "huggingface_hub", "transformers", "uvicorn.access")


def configure_logs(level: str) -> None:
    """Log from `level` on ("debug", "info", "warning", "error"); libraries only from warnings on."""
    os.environ.setdefault("HIVEMIND_LOGLEVEL", "WARNING")  # hivemind sets up its own handler when imported
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.basicConfig(level=level.upper(), format=FORMAT, force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
