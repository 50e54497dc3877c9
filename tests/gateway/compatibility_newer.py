"""The parameters of OpenAI's responses and embeddings, of Anthropic's messages, and what becomes of each."""

from gateway.compatibility_openai import FUNCTION, LATER_HINT, OLDER, SAMPLED, SCHEMA, STREAM
from gateway.compatibility_row import honoured, label, refused

RESPONSES_TOOLS = [{"type": "function", **FUNCTION}]
RESPONSES = {
    **SAMPLED,
    "access_programs": refused({"cyber": "standard"}),
    "background": refused(True, note="nothing is stored"),
    "background_options": refused({"completion_window": "soonest"}),
    "context_management": refused([{"type": "compaction"}]),
    "conversation": refused("conv_1", note="nothing is stored"),
    "image": refused({"context_compression": "auto"}),
    "include": honoured(
        {"include": ["message.output_text.logprobs"]},
        lambda it: it.request.sampling.num_logprobs == 0,
        "logprobs of the text",
        refused=(["reasoning.encrypted_content"],),
    ),
    "input": honoured(
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]},
        lambda it: [getattr(turn, "content", "") for turn in it.request.prompt] == ["hello"],
        "a string; items message, function_call, function_call_output; parts of text",
        refused=([{"type": "item_reference", "id": "x"}],),
    ),
    "instructions": honoured(
        {"instructions": "Be brief."}, lambda it: getattr(it.request.prompt[0], "role", "") == "system"
    ),
    "max_output_tokens": honoured({"max_output_tokens": 3}, lambda it: it.request.max_tokens == 3),
    "max_tool_calls": refused(3, note="counts OpenAI's own tools, which are not here"),
    "metadata": label({"a": "b"}, "repeated in the answer; nothing is kept of it"),
    "model": OLDER["model"],
    "moderation": refused({"model": "m"}),
    "parallel_tool_calls": honoured(
        {"tools": RESPONSES_TOOLS, "parallel_tool_calls": False}, lambda it: it.request.grammar is not None
    ),
    "previous_response_id": refused("resp_1", note="nothing is stored; send the turns"),
    "prompt": refused({"id": "pmpt_1"}),
    "prompt_cache_key": label("k", LATER_HINT),
    "prompt_cache_options": refused({"mode": "explicit"}),
    "prompt_cache_retention": refused("24h"),
    "reasoning": refused({"effort": "high"}),
    "safety_identifier": label("s"),
    "service_tier": refused("flex"),
    "store": refused(True, note="nothing is stored, also where it is left out"),
    "stream": STREAM,
    "stream_options": refused({"include_obfuscation": True}),
    "text": honoured(
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
        lambda it: it.request.grammar is not None,
        "`format`, enforced; `verbosity` only as medium",
        refused=({"verbosity": "low"},),
    ),
    "tool_choice": honoured(
        {"tools": RESPONSES_TOOLS, "tool_choice": {"type": "function", "name": "weather"}},
        lambda it: it.request.grammar is not None,
        "none, auto, required, a function",
        refused=({"type": "web_search"},),
    ),
    "tools": honoured(
        {"tools": RESPONSES_TOOLS},
        lambda it: [tool.name for tool in it.request.tools] == ["weather"],
        "functions; OpenAI's own tools are refused",
        refused=([{"type": "web_search"}],),
    ),
    "top_logprobs": honoured({"top_logprobs": 2}, lambda it: it.request.sampling.num_logprobs == 2, "up to 20"),
    "truncation": refused("auto"),
    "user": label("u"),
}
EMBEDDINGS = {
    "dimensions": refused(2, note="these models were not trained to have their vectors cut"),
    "encoding_format": honoured({"encoding_format": "base64"}, lambda it: '"embedding":"' in it.text, "float, base64"),
    "input": honoured(
        {"input": ["a", "b"]}, lambda it: len(it.asked) == 2, "a string, token ids, or up to 2,048 of either"
    ),
    "model": honoured(
        {"model": "osai/demo"}, lambda it: it.asked[0].model_id == "osai/demo", "may be left out where one is served"
    ),
    "user": label("u"),
}
MESSAGES_TOOLS = [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}]
CACHE = {"type": "ephemeral"}
MESSAGES = {
    "cache_control": label(CACHE, LATER_HINT),
    "container": refused("c"),
    "diagnostics": refused({"previous_message_id": "m"}),
    "inference_geo": refused("us", note="`trusted_operators` says whose nodes may serve a request"),
    "max_tokens": honoured({"max_tokens": 3}, lambda it: it.request.max_tokens == 3),
    "messages": honoured(
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": CACHE}]}]},
        lambda it: [getattr(turn, "content", "") for turn in it.request.prompt] == ["hello"],
        "blocks text, tool_use, tool_result (of an error the text begins with `Error: `)",
        refused=([{"role": "user", "content": [{"type": "image", "source": {}}]}],),
    ),
    "metadata": label({"user_id": "u"}),
    "model": OLDER["model"],
    "output_config": honoured(
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        lambda it: it.request.grammar is not None,
        "`format`, enforced",
        refused=({"effort": "low"},),
    ),
    "service_tier": refused("priority"),
    "speed": refused("fast"),
    "stop_sequences": honoured({"stop_sequences": ["a"]}, lambda it: it.request.stop == ("a",), "up to 4"),
    "stream": STREAM,
    "system": honoured(
        {"system": [{"type": "text", "text": "Be brief."}]},
        lambda it: getattr(it.request.prompt[0], "role", "") == "system",
    ),
    "thinking": refused({"type": "enabled", "budget_tokens": 1024}),
    "tool_choice": honoured(
        {"tools": MESSAGES_TOOLS, "tool_choice": {"type": "any"}},
        lambda it: it.request.grammar is not None,
        "auto, any, tool, none; `disable_parallel_tool_use`; all are enforced by a grammar",
    ),
    "tools": honoured(
        {"tools": MESSAGES_TOOLS},
        lambda it: [tool.name for tool in it.request.tools] == ["weather"],
        "custom tools, up to 128; Anthropic's own are refused",
        refused=([{"type": "web_search_20250305", "name": "web_search"}],),
    ),
    "user_profile_id": refused("p"),
    "workspace_id": refused("w"),
}

# osai's own, on every endpoint that generates unless the note says otherwise.
OPERATOR = "11" * 32
GRAMMARS = "chat and completions only"
EXTENSIONS = {
    "top_k": honoured({"top_k": 5}, lambda it: it.request.sampling.top_k == 5),
    "min_p": honoured({"min_p": 0.5}, lambda it: it.request.sampling.min_p == 0.5),
    "repetition_penalty": honoured(
        {"repetition_penalty": 1.5}, lambda it: it.request.sampling.repetition_penalty == 1.5
    ),
    "seed": OLDER["seed"],
    "temperature": SAMPLED["temperature"],
    "top_p": SAMPLED["top_p"],
    "ignore_eos": honoured({"ignore_eos": True}, lambda it: it.request.ignore_eos),
    "stop_token_ids": honoured({"stop_token_ids": [5]}, lambda it: it.request.stop_token_ids == (5,)),
    "trusted_operators": honoured(
        {"trusted_operators": [OPERATOR]},
        lambda it: it.asked[0].trusted_operators == {bytes.fromhex(OPERATOR)},
        "public keys in hex, of whose nodes alone may serve it (docs/security.md); embeddings too",
    ),
    "guided_json": honoured(
        {"guided_json": SCHEMA}, lambda it: getattr(it.request.grammar, "kind", "") == "json_schema", GRAMMARS
    ),
    "guided_regex": honoured(
        {"guided_regex": "a+"}, lambda it: getattr(it.request.grammar, "text", "") == "a+", GRAMMARS
    ),
    "guided_choice": honoured(
        {"guided_choice": ["a", "b.c"]}, lambda it: getattr(it.request.grammar, "text", "") == "a|b\\.c", GRAMMARS
    ),
    "guided_grammar": honoured(
        {"guided_grammar": 'start: "a"'},
        lambda it: getattr(it.request.grammar, "kind", "") == "lark",
        f"a grammar in llguidance's lark; {GRAMMARS}",
    ),
    "structured_outputs": honoured(
        {"structured_outputs": {"regex": "a+"}},
        lambda it: getattr(it.request.grammar, "text", "") == "a+",
        f"`json`, `regex`, `choice`, `grammar`, `json_object`: the newer names of the same; {GRAMMARS}",
        refused=({"structural_tag": "x"},),
    ),
    "response_format": honoured(
        {"response_format": {"type": "json_object"}}, lambda it: it.request.grammar is not None, "of completions"
    ),
    "metadata": label({"a": "b"}, "of completions; nothing is kept of it"),
    "pooling": honoured(
        {"pooling": "last"},
        lambda it: getattr(it.asked[0], "pooling", "") == "last",
        "of embeddings: mean (over the prompt, the default) or last; the answer says which in `osai`",
    ),
}
