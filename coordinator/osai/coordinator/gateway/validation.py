"""What the request models share: unsupported parameters, several forms of one thing, errors with a path. Pure."""

from collections.abc import Collection, Mapping, Sequence

from pydantic_core import ErrorDetails, PydanticCustomError

from osai.coordinator.gateway.errors import ParameterError
from osai.core.errors import InvalidRequestError
from osai.core.operators import trusted_operators_of_hex
from osai.core.sampling import MAX_BIAS

MAX_STOP_STRINGS = 4  # as OpenAI's
MAX_TOKEN_ID = 2**31 - 1  # what the wire carries; the model's vocabulary bounds it further
MAX_TOKEN_IDS = 2**20  # in a list: past every context, and a list that is checked in some 50 ms
_MAX_DIGITS = 10  # of a token id
Neutral = Mapping[str, Sequence[object]]  # parameters, each with the values that change nothing
_NO_OBJECT = frozenset({"missing", "model_type", "model_attributes_type", "dict_type"})  # pydantic's types of error
_OURS = "osai."  # marks our own errors among pydantic's; OpenAI's `code` follows


def refused(message: str, *, code: str = "invalid_value", step: str = "") -> PydanticCustomError:
    """An error of ours inside a pydantic validator; `step` goes on from the path where the validator stands."""
    return PydanticCustomError(f"{_OURS}{code}", "{message}", {"message": message, "step": step})


def drop_neutral(body: object, *, known: Collection[str], neutral: Neutral) -> object:
    """Take out parameters that ask for nothing: null, or an unsupported one at the value which leaves it off.

    Args:
        body: the JSON value, not validated yet.
        known: the parameters that are supported.
        neutral: for each parameter that is understood but not supported, the values that change nothing.

    Raises:
        PydanticCustomError: if an unsupported parameter asks for something.
    """
    if not isinstance(body, dict):
        return body
    kept = {}
    for name, value in body.items():
        if name in known:
            if value is not None:
                kept[name] = value
        elif name not in neutral:
            kept[name] = value  # unknown: extra="forbid" names it
        elif value is not None and not any(type(value) is type(off) and value == off for off in neutral[name]):
            advice = "".join(f" or send {off!r}" for off in neutral[name])
            raise refused(f"not supported; leave it out{advice}", code="unsupported_parameter", step=name)
    return kept


def well_formed(text: str) -> str:
    """Text without lone surrogates, which JSON can spell and UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise refused(f"not well-formed Unicode: lone surrogate at character {e.start}") from None
    return text


def join_text_parts(content: object) -> object:
    """A message's content as one string: `[{"type": "text", "text": ...}, ...]` becomes the texts, joined."""
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise refused("only parts of type 'text' are supported", code="unsupported_parameter", step=f"[{index}]")
        if set(part) - {"type", "text"} or not isinstance(part.get("text"), str):
            raise refused("a text part is {'type': 'text', 'text': STRING}, nothing else", step=f"[{index}]")
        texts.append(part["text"])
    return "".join(texts)


def stop_strings(value: object) -> object:
    """`stop` as a tuple: of one string, or of a list of up to four."""
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise refused("must be a non-empty string, or a list of them")
    if len(stops) > MAX_STOP_STRINGS:
        raise refused(f"has {len(stops)} strings; at most {MAX_STOP_STRINGS} are allowed")
    return tuple(well_formed(stop) for stop in stops)


def single_prompt(value: object) -> object:
    """A completion's prompt: a string or token ids, either of them also as the only item of a list."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise refused(f"holds {len(value)} prompts; send one prompt a request", code="unsupported_parameter")
        value = value[0]
    if isinstance(value, str):
        return well_formed(value)
    if not isinstance(value, list) or not value:
        raise refused("must be a string, a list of one string, or a list of token ids")
    return token_ids(value)


def token_ids(value: object) -> object:
    """A list of token ids as a tuple; what is no list is left to pydantic."""
    if not isinstance(value, list):
        return value
    if len(value) > MAX_TOKEN_IDS:
        raise refused(f"has {len(value)} token ids; at most {MAX_TOKEN_IDS} are allowed")
    for index, token in enumerate(value):
        if type(token) is not int or not 0 <= token <= MAX_TOKEN_ID:
            raise refused("a token id is an integer, 0 or more and below the vocabulary's size", step=f"[{index}]")
    return tuple(value)


def operator_keys(value: object) -> object:
    """`trusted_operators` as a set of public keys; an empty list is refused: nobody can have meant it (O6)."""
    if not isinstance(value, list) or not value or not all(isinstance(key, str) for key in value):
        raise refused("must be a list of one or more public keys, in hex")
    try:
        return trusted_operators_of_hex(value)
    except InvalidRequestError as e:
        raise refused(e.message) from e


def parameter_error(detail: ErrorDetails) -> ParameterError:
    """One of pydantic's errors, in our words and with the parameter's path, as in `messages[0].content`."""
    path = detail["loc"][1:] if detail["loc"][:1] == ("body",) else detail["loc"]
    param = _joined(path)
    context = detail.get("ctx", {})
    if detail["type"].startswith(_OURS):
        step = str(context["step"])
        param = f"{param}{step}" if step.startswith("[") or not param or not step else f"{param}.{step}"
        return ParameterError(f"{param}: {context['message']}", param=param, detail=detail["type"].removeprefix(_OURS))
    if detail["type"] == "json_invalid":
        where = f"{context.get('error', 'wrong')} (character {detail['loc'][-1]})"
        return ParameterError(f"the body is not valid JSON: {where}", param=None, detail="invalid_json")
    if detail["type"] in _NO_OBJECT and not param:
        message = "the body must be a JSON object, sent with the header 'Content-Type: application/json'"
        return ParameterError(message, param=None, detail="invalid_json")
    if detail["type"] == "missing":
        return ParameterError(f"{param}: required", param=param, detail="missing_required_parameter")
    if detail["type"] == "extra_forbidden":
        return ParameterError(f"{param}: no such parameter", param=param, detail="unknown_parameter")
    return ParameterError(f"{param or 'the body'}: {detail['msg']}", param=param or None)


def _joined(path: Sequence[int | str]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def biases(value: object) -> object:
    """`logit_bias`, whose keys are token ids as strings, as pairs; what is no object is left to pydantic."""
    if not isinstance(value, dict):
        return value
    found = []
    for key, bias in value.items():
        if not (key.isascii() and key.isdecimal() and len(key) <= _MAX_DIGITS and int(key) <= MAX_TOKEN_ID):
            raise refused("a key is a token id, written as a string", step=key)
        if type(bias) not in {int, float}:
            raise refused("a bias is a number", step=key)
        if not -MAX_BIAS <= bias <= MAX_BIAS:  # also catches NaN
            raise refused(f"a bias lies between -{MAX_BIAS:g} and {MAX_BIAS:g}", step=key)
        found.append((int(key), float(bias)))
    return tuple(found)
