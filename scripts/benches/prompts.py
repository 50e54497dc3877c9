"""Prompts of random token ids. Pure."""

import random

from scripts.benches.bench_model import BenchModel

NUM_SPECIAL = 3  # the first ids are special tokens


def random_prompts(model: BenchModel, count: int, num_tokens: int, seed: int = 1) -> list[list[int]]:
    """Another prompt for each use: nothing may come from a cache of prompts."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    return [[draw.randrange(NUM_SPECIAL, model.vocab_size) for _ in range(num_tokens)] for _ in range(count)]
