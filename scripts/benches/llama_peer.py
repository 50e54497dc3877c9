"""llama.cpp, through llama-cpp-python, in a process of its own: greedy, one stream, token ids in and out.

python -m scripts.benches.llama_peer FILE.gguf NUM_CONTEXT NUM_THREADS says `{"ready": true}`, then answers each line
`{"prompt": [...], "num_tokens": N}` with `{"token_ids": [...], "arrivals": [[SECONDS, 1], ...]}`, and
`{"logits_of": [...]}` with `{"logits": BASE64}`, float32, of the token after the prompt.
"""

import base64
import json
import sys
import time
from typing import Any

import llama_cpp
import numpy as np

from osai.core.errors import InternalError


def generate(llama: llama_cpp.Llama, prompt: list[int], num_tokens: int) -> dict[str, object]:
    """One generation; each token with the moment at which it was there."""
    token_ids: list[int] = []
    arrivals: list[tuple[float, int]] = []
    for token_id in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):  # it never ends by itself
        arrivals.append((time.perf_counter(), 1))
        token_ids.append(int(token_id))
        if len(token_ids) == num_tokens:
            break
    return {"token_ids": token_ids, "arrivals": arrivals}


def logits_of(llama: llama_cpp.Llama, prompt: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits [vocab_size] of the token after a prompt."""
    llama.n_tokens = 0  # from the beginning
    llama.eval(prompt)
    found = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
    if not found:
        raise InternalError("llama.cpp gives no logits")
    return np.ctypeslib.as_array(found, shape=(llama.n_vocab(),)).copy()


def load(file: str, num_context: int, num_threads: int) -> llama_cpp.Llama:
    """A model with so many threads, else with the defaults of llama-cpp-python."""
    return llama_cpp.Llama(file, n_ctx=num_context, n_threads=num_threads, n_threads_batch=num_threads, verbose=False)


def main(file: str, num_context: str, num_threads: str) -> None:
    """Answer until standard input ends."""
    llama = load(file, int(num_context), int(num_threads))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "logits_of" in asked:
            logits = logits_of(llama, asked["logits_of"])
            answer: dict[str, object] = {"logits": base64.b64encode(logits.tobytes()).decode()}
        else:
            answer = generate(llama, asked["prompt"], asked["num_tokens"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
