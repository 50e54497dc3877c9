"""The table of every parameter of OpenAI's and Anthropic's APIs: docs/compatibility.md.

`PYTHONPATH=tests .venv/bin/python -m gateway.compatibility > docs/compatibility.md` writes it anew.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import get_type_hints

from anthropic.types import message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from gateway.compatibility_newer import EMBEDDINGS, EXTENSIONS, MESSAGES, RESPONSES
from gateway.compatibility_openai import CHAT, COMPLETION, USER
from gateway.compatibility_row import Json, Row
from osai.coordinator.gateway.bodies import ChatBody, CompletionBody
from osai.coordinator.gateway.embeddings import EmbeddingBody
from osai.coordinator.gateway.messages_body import MessagesBody
from osai.coordinator.gateway.responses_body import ResponsesBody
from osai.coordinator.gateway.schema import Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One endpoint.

    Attributes:
        params: the client's typed parameters.
        body: as the gateway reads it.
        base: the least that can be sent.
    """

    title: str
    path: str
    params: tuple[type, ...]
    body: type[Body]
    base: Json
    rows: Mapping[str, Row]

    def parameters(self) -> list[str]:
        """The client's parameters, in its order."""
        found = {name: None for kind in self.params for name in get_type_hints(kind, include_extras=True)}
        return list(found)

    def neutral(self, name: str) -> Sequence[object]:
        """Values of a refused parameter that are taken, as they leave it off."""
        return self.body.neutral.get(name, ())


APIS = (
    Api(
        title="OpenAI: chat completions",
        path="/v1/chat/completions",
        params=(chat_create_params.CompletionCreateParamsNonStreaming,),
        body=ChatBody,
        base={"messages": USER},
        rows=CHAT,
    ),
    Api(
        title="OpenAI: completions",
        path="/v1/completions",
        params=(completion_create_params.CompletionCreateParamsNonStreaming,),
        body=CompletionBody,
        base={"prompt": "hi"},
        rows=COMPLETION,
    ),
    Api(
        title="OpenAI: responses",
        path="/v1/responses",
        params=(response_create_params.ResponseCreateParamsNonStreaming,),
        body=ResponsesBody,
        base={"input": "hi"},
        rows=RESPONSES,
    ),
    Api(
        title="OpenAI: embeddings",
        path="/v1/embeddings",
        params=(embedding_create_params.EmbeddingCreateParams,),
        body=EmbeddingBody,
        base={"input": "hi"},
        rows=EMBEDDINGS,
    ),
    Api(
        title="Anthropic: messages",
        path="/v1/messages",
        params=(message_create_params.MessageCreateParamsNonStreaming,),
        body=MessagesBody,
        base={"messages": USER, "max_tokens": 5},
        rows=MESSAGES,
    ),
)

_INTRODUCTION = """# Compatibility

Every parameter of OpenAI's chat, completions, responses and embeddings and of Anthropic's messages, as their Python
clients know them (openai {openai}, anthropic {anthropic}), and what becomes of it. None is ignored in silence:

- **honoured**: it does what its API says, within the limits named here.
- **honoured in part**: so do the values named here; others get a 400.
- **label**: accepted; it changes no answer.
- **refused**: status 400; the error names the parameter and says what to do. Values that leave it off are taken.

What is in neither list gets a 400 too. Null is the same as leaving out.

This file is generated and tested: `tests/gateway/test_compatibility.py` sends each row to the gateway.
To write it anew:

    PYTHONPATH=tests .venv/bin/python -m gateway.compatibility > docs/compatibility.md
"""
_TOOLS = """
## Tools

A model calls tools in the format that its chat template asks for; other templates that know tools get a 400.

| format | recognised in the template by | models |
|---|---|---|
| hermes | `<tool_call>` | Qwen 2.5 and 3, Hermes, Falcon H1 |
| falcon | `<tool_call>` and the word Falcon | Falcon 3 |
| mistral | `[TOOL_CALLS]` | Mistral, Mixtral, Ministral |
| llama_json | `"name": ` and `"parameters": ` | Llama 3.1 to 3.3, Llama 4 |
| pythonic | `[func_name1(` | Llama 4 and 3.2 with their pythonic templates |
| function_gemma | `<start_function_call>` | FunctionGemma |
| gemma | `<|tool_call>` | Gemma 4 |

- A call is given when it is complete, in one delta with all of its arguments. What is no well-formed call of a tool
  that was sent comes through as text.
- `required`, a named tool, `strict` and calls one at a time are enforced by a grammar in the model's format. The
  pythonic and the two Gemma formats can hold types, properties, required, items, enum, const, anyOf, oneOf and $ref; a
  schema that says more gets a 400 there.
- Arguments that a tool's schema does not name are made only where it says `additionalProperties`.
- `tool_choice` none leaves the tools out of the prompt.
- JSON answers (`response_format`) and tools go together: the answer is the one or the other. Regular expressions,
  choices and grammars do not go with tools.
- `finish_reason` is `tool_calls` where there is a call and the answer is complete.
"""


def document() -> str:
    """All of docs/compatibility.md."""
    introduction = _INTRODUCTION.format(openai=version("openai"), anthropic=version("anthropic"))
    tables = ["\n".join(_table(api.title, f"`POST {api.path}`", api.rows, api)) for api in APIS]
    own = "\n".join(
        _table("osai's own", "On every endpoint that generates, unless the row says otherwise.", EXTENSIONS)
    )
    return "\n".join([introduction, "\n\n".join([*tables, own]), _TOOLS.rstrip()]) + "\n"


def _table(title: str, where: str, rows: Mapping[str, Row], api: Api | None = None) -> Iterator[str]:
    yield f"## {title}\n\n{where}\n"
    yield "| parameter | | |"
    yield "|---|---|---|"
    for name in sorted(rows):
        row = rows[name]
        taken = ", ".join(f"`{json.dumps(value)}`" for value in api.neutral(name)) if api else ""
        notes = [row.note, f"taken: {taken}" if row.status == "refused" and taken else ""]
        yield f"| `{name}` | {row.status} | {'; '.join(note for note in notes if note)} |"


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201
