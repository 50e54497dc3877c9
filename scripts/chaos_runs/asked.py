"""What a chaos run asks a swarm for. Pure."""

import random
from dataclasses import dataclass

from scripts.chaos_runs.model import NUM_SPECIAL, VOCAB_SIZE

from osai.client import GenerationOptions
from osai.core.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request; it goes on past any end-of-sequence. `temperature` 0 is greedy."""

    prompt: tuple[int, ...]
    num_tokens: int
    temperature: float = 0.0
    seed: int = 0

    @property
    def options(self) -> GenerationOptions:
        """For the client."""
        return GenerationOptions(
            max_tokens=self.num_tokens, temperature=self.temperature, seed=self.seed, ignore_eos=True
        )

    @property
    def sampling(self) -> SamplingParams:
        """For an engine."""
        return SamplingParams(temperature=self.temperature, seed=self.seed)


def random_prompt(draw: random.Random, num_tokens: int) -> tuple[int, ...]:
    """Ids that no earlier prompt begins with: nothing comes from a cache."""
    return tuple(draw.randrange(NUM_SPECIAL, VOCAB_SIZE) for _ in range(num_tokens))


def greedy_and_sampled(draw: random.Random, num_prompt_tokens: int, num_tokens: int) -> tuple[Asked, Asked]:
    """Two requests with prompts of their own."""
    return (
        Asked(prompt=random_prompt(draw, num_prompt_tokens), num_tokens=num_tokens),
        Asked(
            prompt=random_prompt(draw, num_prompt_tokens),
            num_tokens=num_tokens,
            temperature=0.8,
            seed=draw.randrange(2**32),
        ),
    )
