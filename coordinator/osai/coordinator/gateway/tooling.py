"""How a request's tools are called by the model that serves it: grammar, parser, ids."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from osai.coordinator.api import GenerationRequest, SwarmView
from osai.coordinator.gateway.asked import Asked, ToolUse
from osai.coordinator.gateway.errors import ParameterError
from osai.coordinator.tool_calls.calls import CallFormat, CallParser, CallRule
from osai.coordinator.tool_calls.formats import FORMATS
from osai.coordinator.tool_calls.style import ToolStyle
from osai.core.errors import InvalidRequestError
from osai.core.grammar import Grammar


class ToolStyles:
    """How each served model calls tools. It never changes, so it is looked up once a model."""

    def __init__(self, swarm: Callable[[], SwarmView]) -> None:
        self._swarm = swarm
        self._known: dict[str, ToolStyle | None] = {}

    def find(self, model_id: str) -> ToolStyle | None:
        """The style of a model; an empty id means the only one.

        Raises:
            ParameterError: if its chat template knows no tools.
        """
        if model_id not in self._known:
            models = self._swarm().models
            found = [model for model in models if model.model_id == model_id or (not model_id and len(models) == 1)]
            if not found:
                return None  # the coordinator says that better
            self._known[model_id] = found[0].tools
        if (style := self._known[model_id]) is None:
            raise ParameterError(
                "tools: the model's chat template knows no tools, or has them called in a way that is not known here; "
                "leave tools out, or ask another model",
                param="tools",
                detail="unsupported_parameter",
            )
        return style


@dataclass(frozen=True, slots=True)
class Calls:
    """How one request's calls are read."""

    format: CallFormat
    names: frozenset[str]

    def parser(self) -> CallParser:
        """A parser for one choice."""
        return self.format.parser(self.names)


def with_tools(asked: Asked, styles: ToolStyles) -> tuple[GenerationRequest, Calls | None]:
    """The request with its tools and the grammar that they need, and how its calls are read; None if there are none.

    Raises:
        ParameterError: if the model knows no tools, or a grammar can't be made of them.
    """
    use, request = asked.tool_use, asked.request
    if use is None or (style := styles.find(request.model_id)) is None:
        return request, None
    called = FORMATS[style.format]
    grammar = _grammar(use, called, style, request.grammar)
    calls = Calls(called, frozenset(tool.name for tool in use.offered()))
    return replace(request, tools=use.tools, grammar=grammar), calls


def _grammar(use: ToolUse, called: CallFormat, style: ToolStyle, answer: Grammar | None) -> Grammar | None:
    """What holds the model to the tools' schemas; None where it is free."""
    if not (use.required or use.strict or not use.parallel or answer):
        return None
    rule = CallRule(
        tools=use.offered(),
        required=use.required,
        parallel=use.parallel and not use.only,
        answer=_answer_rule(answer) if answer and not use.required else "",
    )
    try:
        return Grammar(kind="lark", text=called.grammar(rule, style))
    except InvalidRequestError as e:
        raise ParameterError(f"tools: {e.message}", param="tools") from e


def _answer_rule(answer: Grammar) -> str:
    if answer.kind != "json_schema":
        raise ParameterError(
            f"tools: with a {answer.kind} for the answer no tool can be called; send one of them, or tool_choice none",
            param="tools",
        )
    return f"%json {answer.text}"
