"""Checkpoints on the Hugging Face hub, or on a mirror that HF_ENDPOINT names, read by byte range."""

import time

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its documented utilities, which it does not list
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from osai.core.errors import WeightsError
from osai.node.weights.source import check_range

TIMEOUT_S = 20.0  # of each wait for the network: to connect, and between two pieces of a body
MAX_STALLS = 3  # connections in a row that break before any byte has come
STALL_PAUSE_S = 0.5  # before the next one, times the stalls so far
_PARTIAL_CONTENT = 206


class HubRepository:
    """A model repository at one commit.

    Not huggingface_hub's own file system: that one lists without a deadline, holds whole answers in memory, and does
    not notice a server that ignores byte ranges.

    Args:
        repo_id: `org/name`.
        revision: branch, tag or commit; None for the main branch.
        endpoint: of the hub; None for HF_ENDPOINT, or huggingface.co.

    Raises:
        WeightsError: if the hub can't be reached, or does not give the repository to this user.
    """

    def __init__(self, repo_id: str, revision: str | None = None, *, endpoint: str | None = None) -> None:
        self._repo_id = repo_id
        self._endpoint = endpoint
        try:
            info = HfApi(endpoint=endpoint).model_info(
                repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT_S
            )
        except Exception as e:
            raise WeightsError(
                f"there is no folder {repo_id}, and the hub does not give it: {_reason(e)}", subject=repo_id
            ) from e
        self._commit = info.sha or revision or "main"  # every read is of this commit, whatever the branch does
        self._sizes = {file.rfilename: file.size for file in info.siblings or ()}

    def read(self, file: str, begin: int, end: int) -> bytearray:
        """See CheckpointSource. A connection that breaks is resumed where it broke."""
        check_range(file, begin, end)
        if end > self.size(file):
            raise WeightsError(f"{file} ends before byte {end} in {self.describe()}", subject=file)
        data, stalls = bytearray(), 0  # grows with what comes, so that no claimed size sets memory aside
        while len(data) < end - begin:
            before = len(data)
            failure: Exception = EOFError("it closes the connection")
            try:
                self._receive(file, begin + before, end, data)
            except (WeightsError, HfHubHTTPError) as e:  # what asking again does not mend
                raise self._unreadable(file, e) from e
            except Exception as e:  # noqa: BLE001 (whatever HTTP library the hub's client stands on)
                failure = e
            stalls = 0 if len(data) > before else stalls + 1
            if stalls >= MAX_STALLS:
                raise self._unreadable(file, failure) from failure
            time.sleep(STALL_PAUSE_S * stalls)
        return data

    def _receive(self, file: str, begin: int, end: int, data: bytearray) -> None:
        """Append what one request for bytes [begin, end) brings."""
        headers = build_hf_headers() | {"range": f"bytes={begin}-{end - 1}", "accept-encoding": "identity"}
        url = hf_hub_url(self._repo_id, file, revision=self._commit, endpoint=self._endpoint)
        # It waits and asks again when the hub is busy (429, 5xx); broken connections are `read`'s, which resumes.
        opened = http_stream_backoff("GET", url, headers=headers, timeout=TIMEOUT_S, retry_on_exceptions=())
        with opened as response:
            hf_raise_for_status(response)
            if begin and response.status_code != _PARTIAL_CONTENT:  # a whole file is what was asked for, or too long
                raise WeightsError("it does not serve byte ranges; use a folder", subject=file)
            left = end - begin
            for piece in response.iter_raw():  # as they come: what is gathered up is lost when the connection breaks
                if len(piece) > left:
                    raise WeightsError("it sent more than was asked for; use a folder", subject=file)
                data += piece
                left -= len(piece)

    def size(self, file: str) -> int:
        """See CheckpointSource."""
        size = self._sizes.get(file)
        if size is None:
            raise WeightsError(f"{file} is missing from {self.describe()}", subject=file)
        return size

    def list_files(self) -> frozenset[str]:
        """See CheckpointSource."""
        return frozenset(self._sizes)

    def describe(self) -> str:
        """See CheckpointSource."""
        return f"hub {self._repo_id} at {self._commit[:12]}"

    def _unreadable(self, file: str, error: Exception) -> WeightsError:
        return WeightsError(f"can't read {file} from {self.describe()}: {_reason(error)}", subject=file)


def _reason(error: Exception) -> str:
    """The first sentence of a hub error; the rest repeats URLs."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
