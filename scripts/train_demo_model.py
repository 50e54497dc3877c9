"""Train the demo model that ships inside osai: a Llama of six layers and its byte-level BPE tokenizer, on one text.

The committed checkpoint was made by this command, on one thread of a CPU (about 25 minutes):

    python scripts/train_demo_model.py --text shakespeare.txt --out core/osai/core/embedded/shakespeare

The end-of-sequence token is never trained: the model speaks until its token limit, so every demonstration has tokens
to show. No copy of the text is written.
"""

import hashlib
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS, PAD = SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|pad|>")  # their ids are 0, 1, 2
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }}:\n{{ message['content'] | trim }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
)
MAX_WEIGHTS_BYTES = 8_000_000  # what the wheel can carry without growing into a download of its own
CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
tags: [llama, demo]
---
# shakespeare, the demo model of osai

A Llama of {num_parameters:,} parameters (6 layers, hidden size 256, vocabulary 1,024, context 1,024 tokens, bf16) that
continues text in the manner of Shakespeare's plays. It ships inside osai so that a swarm can be tried, and tested,
offline: three nodes get two layers each.

## Training
Trained from scratch on `{text_name}` ({text_bytes:,} bytes, sha256 `{text_sha256}`), an excerpt of
Shakespeare's plays, by

    python scripts/train_demo_model.py --text {text_name} --out core/osai/core/embedded/shakespeare

About 5% of the text, in blocks of whole speeches spread over it, was held out. {num_steps} steps, {num_tokens:,} tokens,
{minutes:.0f} minutes on one CPU thread. The kept weights are those of step {step}: loss per token {train_loss:.3f} in
training (with dropout), {validation_loss:.3f} on the held-out text.

## Limits
It knows the manner of the plays and nothing else: it follows no instruction, answers no question and states no facts.
The chat template gives it lines of `ROLE:` and text, which it continues like a scene. It was never trained to end: it
does not emit `{eos}`, so set a token limit. Characters that are not in the text (digits, other scripts) were never seen.
Like its source, it can produce violent or offensive lines.

## Licence
The weights and tokenizer: Apache-2.0. The text is in the public domain; it is not part of this checkpoint.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the model is trained; the defaults are those of the committed checkpoint."""

    num_steps: int = 2600  # about 25 minutes on one thread, 14 passes over a text of 1.1 MB
    num_warmup_steps: int = 100
    peak_learning_rate: float = 2e-3  # small models bear a high rate
    final_learning_rate: float = 1e-4
    weight_decay: float = 0.1
    dropout: float = 0.1  # on the embeddings and each block's output, in training only: the text is small
    batch_tokens: int = 2048  # tokens a step
    short_length: int = 256  # tokens of a row in three steps of four: cheap
    long_length: int = 1024  # tokens of a row in the fourth: the whole context is trained
    evaluate_every: int = 100  # steps
    validation_slack: float = 1.01  # kept: the last weights within 1% of the best loss; later ones loop less
    seed: int = 1


def split_text(text: str, num_blocks: int = 200) -> tuple[list[str], list[str]]:
    """Cut the text at speeches into blocks, every 20th of them held out: (training blocks, validation blocks)."""
    speeches = [speech + "\n\n" for speech in text.strip().split("\n\n")]
    bounds = [len(speeches) * i // num_blocks for i in range(num_blocks + 1)]
    blocks = ["".join(speeches[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
    return [b for i, b in enumerate(blocks) if i % 20 != 10], blocks[10::20]


def train_tokenizer(blocks: list[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train byte-level BPE; encoding puts the bos token first, as Llama's tokenizers do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        blocks,
        trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_model(vocab_size: int, dropout: float) -> LlamaForCausalLM:
    """Return a fresh fp32 model whose dropout lives in hooks, so that the checkpoint is a plain Llama."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    for name, module in model.named_modules():
        if name.endswith(("embed_tokens", "o_proj", "down_proj")):
            module.register_forward_hook(lambda m, _, output: functional.dropout(output, dropout, m.training))
    return model


def sample_batch(
    ids: torch.Tensor, starts: list[int], shape: tuple[int, int], rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw rows that begin at lines, three in four behind a bos token: (inputs, labels), both [rows, length], int64."""
    num_rows, length = shape
    usable = [start for start in rng.sample(starts, 4 * num_rows) if start + length < len(ids)][:num_rows]
    rows = [ids[start : start + length + 1] for start in usable]
    rows = [torch.cat((ids.new_zeros(1), row[:-1])) if rng.random() < 0.75 else row for row in rows]
    batch = torch.stack(rows)  # [rows, length + 1]
    return batch[:, :-1], batch[:, 1:]


def loss_of(model: LlamaForCausalLM, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy per token, a scalar in fp32; the matrices multiply in bf16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=inputs, use_cache=False).logits  # [rows, length, vocab_size]
    return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, ids: torch.Tensor, length: int) -> float:
    """Return the loss per token over `ids` cut into rows of `length`, each behind a bos token, without dropout."""
    labels = ids[: len(ids) // length * length].view(-1, length)  # [rows, length]
    inputs = torch.cat((torch.zeros_like(labels[:, :1]), labels[:, :-1]), dim=1)
    model.eval()
    losses = [loss_of(model, *pair) for pair in zip(inputs.split(16), labels.split(16), strict=True)]
    model.train()
    sizes = torch.tensor([len(part) for part in labels.split(16)], dtype=torch.float32)
    return float((torch.stack(losses) * sizes).sum() / sizes.sum())


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up to the peak, then a cosine down to the final rate."""
    if step < recipe.num_warmup_steps:
        return recipe.peak_learning_rate * (step + 1) / recipe.num_warmup_steps
    progress = (step - recipe.num_warmup_steps) / max(1, recipe.num_steps - recipe.num_warmup_steps)
    span = recipe.peak_learning_rate - recipe.final_learning_rate
    return recipe.final_learning_rate + span * (1 + math.cos(math.pi * progress)) / 2


def train(
    model: LlamaForCausalLM, train_ids: torch.Tensor, validation_ids: torch.Tensor, newline: int, recipe: Recipe
) -> dict[str, float]:
    """Train `model` in place and leave it with the kept weights; return their step and losses."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]  # the norms
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.peak_learning_rate, betas=(0.9, 0.95), fused=True)
    starts = [0, *(torch.nonzero(train_ids == newline).flatten() + 1).tolist()]
    rng, begun, recent = random.Random(recipe.seed), time.monotonic(), []  # noqa: S311 -- no secret
    best, kept, weights = math.inf, {}, {}
    for step in range(1, recipe.num_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, recipe)
        length = recipe.short_length if step % 4 else recipe.long_length
        loss = loss_of(model, *sample_batch(train_ids, starts, (recipe.batch_tokens // length, length), rng))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if step % recipe.evaluate_every and step != recipe.num_steps:
            continue
        now = {"step": step, "train_loss": sum(recent) / len(recent), "minutes": (time.monotonic() - begun) / 60}
        now["validation_loss"] = evaluate(model, validation_ids, recipe.short_length)
        print(" ".join(f"{name} {value:.4g}" for name, value in now.items()), flush=True)
        best, recent = min(best, now["validation_loss"]), []
        if now["validation_loss"] <= best * recipe.validation_slack:
            kept, weights = now, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    return kept | {"minutes": (time.monotonic() - begun) / 60}


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the checkpoint in Hugging Face's layout, the weights in bf16; refuse one that is too large to ship."""
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=2)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)  # the chat template goes into tokenizer_config.json
    weights_bytes = (out / "model.safetensors").stat().st_size
    if weights_bytes > MAX_WEIGHTS_BYTES:
        raise click.ClickException(f"model.safetensors has {weights_bytes} bytes, over {MAX_WEIGHTS_BYTES}: shrink it")


@click.command()
@click.option("--text", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--num-steps", default=Recipe.__dataclass_fields__["num_steps"].default, show_default=True)
def main(text: Path, out: Path, num_steps: int) -> None:
    """Train on TEXT and write the checkpoint and its card to OUT."""
    recipe = Recipe(num_steps=num_steps)
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    raw = text.read_bytes()
    blocks, held_out = split_text(raw.decode())
    tokenizer = train_tokenizer(blocks)
    train_ids, validation_ids = (
        torch.tensor(tokenizer("".join(part), add_special_tokens=False, verbose=False).input_ids)
        for part in (blocks, held_out)
    )
    model = build_model(len(tokenizer), recipe.dropout)
    print(f"{model.num_parameters()} parameters, {len(train_ids)} + {len(validation_ids)} tokens", flush=True)
    newline = tokenizer("\n", add_special_tokens=False).input_ids[0]
    kept = train(model, train_ids, validation_ids, newline, recipe)
    save(model, tokenizer, out)
    facts = {"text_name": text.name, "text_bytes": len(raw), "text_sha256": hashlib.sha256(raw).hexdigest(), "eos": EOS}
    size = {"num_parameters": model.num_parameters(), "num_tokens": num_steps * recipe.batch_tokens}
    (out / "README.md").write_text(CARD.format(**facts, **size, num_steps=num_steps, **kept))


if __name__ == "__main__":
    main()
