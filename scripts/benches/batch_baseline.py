"""transformers' own continuous batching (`generate_batch`) in a process of its own: greedy, token ids in and out.

python -m scripts.benches.batch_baseline FOLDER DTYPE NUM_THREADS says `{"ready": true}`, then answers each line
`{"prompts": [[...], ...], "num_tokens": N}` with one `{"token_ids": [...], "arrivals": [[SECONDS, 1], ...]}` a prompt,
as `{"streams": [...]}`.
"""

import json
import sys
from typing import Any

import torch
import transformers as tf
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from osai.core.errors import InternalError

# Left to itself it takes 0.9 of the free memory for its cache. 64 blocks of its default 256 tokens hold the bench's
# sessions several times over, and as many tokens a batch all of their prompts.
NUM_BLOCKS = 64
MAX_BATCH_TOKENS = 2048


def generate(model: Any, prompts: list[list[int]], num_tokens: int) -> dict[str, object]:  # noqa: ANN401
    """One batch, past any end-of-sequence; each token with the moment at which it was there.

    Raises:
        InternalError: if a session of it failed.
    """
    settings = tf.GenerationConfig(max_new_tokens=num_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(num_blocks=NUM_BLOCKS, max_batch_tokens=MAX_BATCH_TOKENS)
    outputs = model.generate_batch(
        prompts, generation_config=settings, continuous_batching_config=batching, record_timestamps=True
    )
    streams = [
        {"token_ids": list(out.generated_tokens), "arrivals": [(at, 1) for at in out.timestamps]}
        for out in outputs.values()
    ]
    if [len(stream["arrivals"]) for stream in streams] != [num_tokens] * len(prompts):
        raise InternalError(f"generate_batch did not give {num_tokens} tokens of each of {len(prompts)} prompts")
    return {"streams": streams}


def main(folder: str, dtype: str, num_threads: str) -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(int(num_threads))
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(generate(model, asked["prompts"], asked["num_tokens"])), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
