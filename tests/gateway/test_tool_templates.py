"""Tools and calls through a model's own chat template, and its calls' marks in the text that it generates."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Trained
from transformers import PreTrainedTokenizerFast

from osai.coordinator.api import ChatMessage, Tool, ToolCall
from osai.coordinator.text import Detokenizer, StopMatcher, Tokenizer
from osai.coordinator.tool_calls.style import ToolStyle
from osai.core.errors import InvalidRequestError

TEMPLATE = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}"
    "{% if m.tool_calls %}[TOOL_CALLS]{% for c in m.tool_calls %}{{ c.function.arguments.city }}{% endfor %}{% endif %}"
    "{{ m.content }}{{ m.name }}{{ m.tool_call_id }};{% endfor %}"
)
TOOL = Tool(name="weather", description="of a city", parameters='{"type": "object"}')
CALL = ToolCall(call_id="c1", name="weather", arguments='{"city": "Rome"}')


def tokenizer(folder: Path, template: str) -> Tokenizer:
    """One of bytes, with a mark of tool calls as a special token, and a template."""
    made = Trained(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<s>", "</s>", "[TOOL_CALLS]"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, show_progress=False, initial_alphabet=alphabet
    )
    made.train_from_iterator(["a"], trainer)
    made.add_tokens([AddedToken("<mine>", special=False, normalized=False)])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def tooled(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer(tmp_path_factory.mktemp("tooled"), TEMPLATE)


def test_the_style_is_read_off_the_template_and_the_vocabulary(tooled: Tokenizer) -> None:
    assert tooled.tool_style == ToolStyle(format="mistral", tokens=(("[TOOL_CALLS]", 2),))


def test_marks_of_calls_stay_in_the_text_and_other_special_tokens_do_not(tooled: Tokenizer) -> None:
    ids = [0, 2, *tooled.encode("now{}"), 1]
    streamed = Detokenizer(tooled, [])
    assert tooled.decode(ids) == "[TOOL_CALLS]now{}"
    assert "".join(streamed.add([token]) for token in ids) + streamed.finish() == "[TOOL_CALLS]now{}"


def test_the_template_gets_tools_calls_and_results_as_objects(tooled: Tokenizer) -> None:
    chat = (
        ChatMessage(role="user", content="hi"),
        ChatMessage(role="assistant", content="", tool_calls=(CALL,)),
        ChatMessage(role="tool", content="sunny", tool_call_id="c1", name="weather"),
    )
    text = tooled.decode(tooled.encode(chat, (TOOL,)))
    tools, rest = text.removeprefix("[AVAILABLE_TOOLS]").split("userhi;")
    function = {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}
    assert json.loads(tools) == [{"type": "function", "function": function}]
    assert rest == "assistant[TOOL_CALLS]Rome;toolsunnyweatherc1;"


@pytest.mark.parametrize("arguments", ["", "[]", "{", "[" * 100_000])
def test_arguments_that_are_no_object_are_refused(tooled: Tokenizer, arguments: str) -> None:
    call = ToolCall(call_id="c1", name="weather", arguments=arguments)
    with pytest.raises(InvalidRequestError, match="arguments of 'weather'"):
        tooled.encode([ChatMessage(role="assistant", content="", tool_calls=(call,))])


def test_a_template_that_knows_no_tools_is_refused(tmp_path: Path) -> None:
    plain = tokenizer(tmp_path, "{% for m in messages %}{{ m.content }}{% endfor %}")
    chat = [ChatMessage(role="user", content="hi")]
    assert plain.tool_style is None
    assert plain.decode(plain.encode(chat)) == "hi"
    with pytest.raises(InvalidRequestError, match="chat template knows no tools"):
        plain.encode(chat, [TOOL])


def test_the_stop_string_that_came_is_told() -> None:
    matcher = StopMatcher(["zzz", "b"])
    assert (matcher.add("a"), matcher.found) == ("a", "")
    assert (matcher.add("xbzzz"), matcher.found) == ("x", "b")
