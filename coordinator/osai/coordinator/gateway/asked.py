"""What an HTTP request asks for, in whichever API's shape it came."""

from dataclasses import dataclass

from osai.coordinator.api import GenerationRequest, Tool
from osai.coordinator.tool_calls.calls import OfferedTool

MAX_CHOICES = 16  # of one request: each is a session of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The tools of a request, and whether they must be called.

    Attributes:
        tools: for the chat template; at least one.
        schemas: of their arguments, in the same order.
        strict: a tool's schema has to be kept to, even where no call is required.
        required: the answer is one or more calls.
        only: the tool that has to be called; empty: any.
        parallel: several calls in one answer are allowed.
    """

    tools: tuple[Tool, ...]
    schemas: tuple[dict[str, object], ...]
    strict: bool = False
    required: bool = False
    only: str = ""
    parallel: bool = True

    def offered(self) -> tuple[OfferedTool, ...]:
        """The tools that may be called."""
        pairs = zip(self.tools, self.schemas, strict=True)
        return tuple(
            OfferedTool(name=tool.name, schema=schema) for tool, schema in pairs if self.only in {"", tool.name}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request.

    Attributes:
        request: of the first choice; the others have the seeds that follow.
        num_choices: how many generations.
        stream: the answer comes as server-sent events.
        include_usage: a stream of OpenAI's ends with a chunk of usage.
        tool_use: None where no tool may be called.
    """

    request: GenerationRequest
    num_choices: int = 1
    stream: bool = False
    include_usage: bool = False
    tool_use: ToolUse | None = None

    @property
    def with_logprobs(self) -> bool:
        """Whether tokens carry their logprobs."""
        return self.request.sampling.num_logprobs is not None
