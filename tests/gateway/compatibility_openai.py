"""The parameters of OpenAI's chat and completions, and what becomes of each."""

from gateway.compatibility_row import honoured, label, refused
from osai.coordinator.api import GenerationRequest

USER = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "of a city", "parameters": SCHEMA}
CHAT_TOOLS = [{"type": "function", "function": FUNCTION}]
LATER_HINT = "a hint that changes no answer: KV of prompts that begin alike is shared anyway"
NO_AUDIO = "text in, text out"

SAMPLED = {
    "temperature": honoured({"temperature": 0.5}, lambda it: it.request.sampling.temperature == 0.5, "0 to 100"),
    "top_p": honoured({"top_p": 0.5}, lambda it: it.request.sampling.top_p == 0.5),
}
STREAM = honoured({"stream": True}, lambda it: it.text.startswith(("data: ", "event: ")))
OLDER = {
    **SAMPLED,
    "frequency_penalty": honoured(
        {"frequency_penalty": 1}, lambda it: it.request.sampling.frequency_penalty == 1.0, "-2 to 2"
    ),
    "presence_penalty": honoured(
        {"presence_penalty": 1}, lambda it: it.request.sampling.presence_penalty == 1.0, "-2 to 2"
    ),
    "logit_bias": honoured(
        {"logit_bias": {"5": -100}},
        lambda it: it.request.sampling.logit_bias == ((5, -100.0),),
        "up to 1,024 tokens; ids are the model's own",
    ),
    "max_tokens": honoured({"max_tokens": 3}, lambda it: it.request.max_tokens == 3),
    "model": honoured(
        {"model": "osai/demo"}, lambda it: it.request.model_id == "osai/demo", "may be left out where one is served"
    ),
    "n": honoured(
        {"n": 3, "seed": 8},
        lambda it: [one.sampling.seed for one in it.asked if isinstance(one, GenerationRequest)] == [8, 9, 10],
        "1 to 16; the seeds are seed, seed + 1, ...; usage counts the prompt once",
    ),
    "seed": honoured({"seed": 9}, lambda it: it.request.sampling.seed == 9, "0 to 2^64 - 1; the same tokens again"),
    "stop": honoured({"stop": ["a", "b"]}, lambda it: it.request.stop == ("a", "b"), "up to 4 strings"),
    "stream": STREAM,
    "stream_options": honoured(
        {"stream": True, "stream_options": {"include_usage": True}},
        lambda it: '"choices":[],"usage":{' in it.text,
        "`include_usage`; `include_obfuscation` only as false",
        refused=({"include_obfuscation": True},),
    ),
    "user": label("u"),
}
CHAT = {
    **OLDER,
    "audio": refused({"voice": "alloy", "format": "wav"}, note=NO_AUDIO),
    "function_call": refused("none!", note="send `tool_choice`"),
    "functions": refused([{"name": "f"}], note="send `tools`"),
    "logprobs": honoured({"logprobs": True}, lambda it: it.request.sampling.num_logprobs == 0),
    "max_completion_tokens": honoured({"max_completion_tokens": 3}, lambda it: it.request.max_tokens == 3),
    "messages": honoured(
        {"messages": [*USER, {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}]},
        lambda it: [turn.role for turn in it.request.prompt if hasattr(turn, "role")] == ["user", "system"],
        "roles system, developer (as system), user, assistant with `tool_calls`, tool; parts of type text; `name` is "
        "given to the chat template",
        refused=([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],),
    ),
    "metadata": label({"a": "b"}),
    "modalities": refused(["text", "audio"], note=NO_AUDIO),
    "moderation": refused({"model": "m"}),
    "parallel_tool_calls": honoured(
        {"tools": CHAT_TOOLS, "parallel_tool_calls": False},
        lambda it: it.request.grammar is not None,
        "false is enforced by a grammar",
    ),
    "prediction": refused({"type": "content", "content": "x"}),
    "prompt_cache_key": label("k", LATER_HINT),
    "prompt_cache_options": refused({"mode": "explicit"}),
    "prompt_cache_retention": refused("24h"),
    "reasoning_effort": refused("high"),
    "response_format": honoured(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        lambda it: it.request.grammar is not None and it.request.grammar.kind == "json_schema",
        "text, json_object, json_schema; the schema is enforced, `strict` or not",
    ),
    "safety_identifier": label("s"),
    "service_tier": refused("flex"),
    "store": refused(True, note="nothing is stored"),
    "tool_choice": honoured(
        {"tools": CHAT_TOOLS, "tool_choice": "required"},
        lambda it: it.request.grammar is not None,
        "none, auto, required, a function; the last two are enforced by a grammar",
        refused=({"type": "allowed_tools", "allowed_tools": {}}, {"type": "custom", "custom": {"name": "x"}}),
    ),
    "tools": honoured(
        {"tools": CHAT_TOOLS},
        lambda it: [tool.name for tool in it.request.tools] == ["weather"],
        "functions, up to 128, for models whose chat template knows tools; `strict` is enforced by a grammar",
        refused=([{"type": "custom", "custom": {"name": "x"}}],),
    ),
    "top_logprobs": honoured(
        {"logprobs": True, "top_logprobs": 3}, lambda it: it.request.sampling.num_logprobs == 3, "up to 20"
    ),
    "verbosity": refused("low"),
    "web_search_options": refused({}),
}
COMPLETION = {
    **OLDER,
    "best_of": refused(2, note="send `n`, and choose"),
    "echo": refused(True),
    "logprobs": honoured({"logprobs": 2}, lambda it: it.request.sampling.num_logprobs == 2, "up to 20"),
    "prompt": honoured(
        {"prompt": [5, 6]},
        lambda it: it.request.prompt == (5, 6),
        "a string or token ids, one prompt a request",
        refused=(["a", "b"],),
    ),
    "suffix": refused("end"),
}
