"""transformers' own `generate()` in a process of its own: greedy, one stream, token ids in and out.

python -m scripts.benches.baseline FOLDER DTYPE NUM_THREADS says `{"ready": true}`, then answers each line
`{"prompt": [...], "num_tokens": N}` with `{"token_ids": [...], "arrivals": [[SECONDS, COUNT], ...]}`.
"""

import json
import sys
import time

import torch
import transformers as tf
from transformers.generation.streamers import BaseStreamer


class Arrivals(BaseStreamer):  # type: ignore[misc] # an untyped base
    """Notes when each token comes."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._seen_prompt = False

    def put(self, _: torch.Tensor) -> None:
        """The prompt first, then each token as it is drawn."""
        if self._seen_prompt:
            self.times.append(time.perf_counter())
        self._seen_prompt = True

    def end(self) -> None:
        """Nothing is kept open."""


def generate(model: tf.PreTrainedModel, prompt: list[int], num_tokens: int) -> dict[str, object]:
    """One generation, past any end-of-sequence."""
    ids = torch.tensor([prompt])
    arrivals = Arrivals()
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, streamer=arrivals
        )
    return {"token_ids": out[0, len(prompt) :].tolist(), "arrivals": [(at, 1) for at in arrivals.times]}


def main(folder: str, dtype: str, num_threads: str) -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(int(num_threads))
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(generate(model, asked["prompt"], asked["num_tokens"])), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
