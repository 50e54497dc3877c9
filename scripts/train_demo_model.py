"""Train the demo model that ships inside osai: a Llama of six layers and its byte-level BPE tokenizer, on one text.

The committed checkpoint was made by this command, on one thread of a CPU (its README.md gives the figures):

    python scripts/train_demo_model.py --text shakespeare.txt --out core/embedded_model/osai/embedded/shakespeare

The end-of-sequence token is never trained: the model speaks until its token limit, so every demonstration has tokens
to show. No copy of the text is written. The same seed on the same kind of CPU gives the same weights.
"""

import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup as cosine_schedule

BOS, EOS, PAD = SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|pad|>")
SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }}:\n{{ message['content'] | trim }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
)
VOCAB_SIZE = 1024
CONTEXT_LENGTH = 1024
MAX_WEIGHTS_BYTES = 8_000_000  # what every installed wheel carries


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the model is trained; the defaults are those of the committed checkpoint."""

    num_steps: int = 2000  # about 20 minutes on one idle core, 9 passes over a text of 1.1 MB
    num_warmup_steps: int = 100
    peak_learning_rate: float = 2e-3  # small models bear a high rate
    final_learning_rate: float = 1e-4
    weight_decay: float = 0.1
    dropout: float = 0.1  # on the embeddings and each block's output: the text is small
    dropout_share: float = 0.7  # of the steps; without it the rest learns phrases by heart: greedy text loops less
    batch_tokens: int = 2048  # tokens a step
    short_length: int = 256  # tokens of a row in three steps of four, and in validation: cheap
    bos_share: float = 0.75  # rows that begin with the bos token: prompts without it work too
    evaluate_every: int = 100  # steps
    validation_slack: float = 1.05  # kept: the last weights whose loss is within 5% of the best
    seed: int = 1


def split_text(text: str, num_blocks: int = 200) -> tuple[list[str], list[str]]:
    """Cut the text at speeches into blocks, every 20th of them held out: (training blocks, validation blocks)."""
    speeches = [speech + "\n\n" for speech in text.strip().split("\n\n")]
    bounds = [len(speeches) * i // num_blocks for i in range(num_blocks + 1)]
    blocks = ["".join(speeches[start:end]) for start, end in itertools.pairwise(bounds)]
    return [block for i, block in enumerate(blocks) if i % 20 != 10], blocks[10::20]


def train_tokenizer(blocks: list[str]) -> PreTrainedTokenizerFast:
    """Train byte-level BPE; encoding puts the bos token first, as Llama's tokenizers do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(blocks, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL_IDS["bos_token_id"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_model(dropout: float) -> LlamaForCausalLM:
    """Return a fresh fp32 model whose dropout lives in hooks, so that the checkpoint is a plain Llama."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        **SPECIAL_IDS,
    )
    model = LlamaForCausalLM(config)
    for name, module in model.named_modules():
        if name.endswith(("embed_tokens", "o_proj", "down_proj")):
            module.register_forward_hook(lambda m, _, output: functional.dropout(output, dropout, m.training))
    return model


def sample_batch(
    ids: torch.Tensor, starts: torch.Tensor, shape: tuple[int, int], bos_share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw rows that begin at lines, some behind a bos token: (inputs, labels), both [rows, length], int64."""
    num_rows, length = shape
    first = starts[torch.randint(len(starts), (num_rows, 1))]  # [rows, 1]
    rows = ids[first + torch.arange(length + 1)]  # [rows, length + 1]
    behind_bos = functional.pad(rows[:, :-1], (1, 0), value=SPECIAL_IDS["bos_token_id"])
    rows = torch.where(torch.rand(num_rows, 1) < bos_share, behind_bos, rows)
    return rows[:, :-1], rows[:, 1:]


def loss_of(model: LlamaForCausalLM, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy per token, a scalar in fp32; the matrices multiply in bf16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=inputs, use_cache=False).logits  # [rows, length, VOCAB_SIZE]
    return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, ids: torch.Tensor, length: int) -> float:
    """Return the loss per token over `ids` cut into rows of `length`, each behind a bos token, without dropout."""
    labels = ids[: len(ids) // length * length].view(-1, length)  # [rows, length]
    inputs = functional.pad(labels[:, :-1], (1, 0), value=SPECIAL_IDS["bos_token_id"])
    model.eval()
    losses = [loss_of(model, *row).item() for row in zip(inputs.split(1), labels.split(1), strict=True)]
    return sum(losses) / len(losses)


def train(model: LlamaForCausalLM, ids: torch.Tensor, held_out: torch.Tensor, newline: int, recipe: Recipe) -> None:
    """Train `model` in place and leave it with the kept weights; print the losses on the way."""
    decayed = {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay}
    norms = {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decayed, norms], lr=recipe.peak_learning_rate, betas=(0.9, 0.95), fused=True)
    schedule = cosine_schedule(optimizer, recipe.num_warmup_steps, recipe.num_steps, min_lr=recipe.final_learning_rate)
    starts = torch.nonzero(ids[: -CONTEXT_LENGTH - 1] == newline).flatten() + 1
    begun, recent, best, kept, weights = time.monotonic(), [], math.inf, 0, model.state_dict()
    for step in range(1, recipe.num_steps + 1):
        model.train(step <= recipe.dropout_share * recipe.num_steps)  # dropout is all that it switches
        length = recipe.short_length if step % 4 else CONTEXT_LENGTH
        batch = sample_batch(ids, starts, (recipe.batch_tokens // length, length), recipe.bos_share)
        loss = loss_of(model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if step % recipe.evaluate_every == 0 or step == recipe.num_steps:
            now, elapsed_s = evaluate(model, held_out, recipe.short_length), time.monotonic() - begun
            print(f"{step=} train={sum(recent) / len(recent):.3f} validation={now:.3f} {elapsed_s=:.0f}", flush=True)
            best, recent = min(best, now), []
            if now <= best * recipe.validation_slack:
                kept, weights = step, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    print(f"kept the weights of step {kept}", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the checkpoint in Hugging Face's layout, the weights in bf16; refuse one that is too large to ship."""
    model.generation_config = GenerationConfig(**SPECIAL_IDS)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)  # the chat template goes into tokenizer_config.json
    weights = out / "model.safetensors"
    weights.chmod(0o644)  # safetensors writes it for its owner alone
    if (num_bytes := weights.stat().st_size) > MAX_WEIGHTS_BYTES:
        raise click.ClickException(f"{weights} has {num_bytes} bytes, over {MAX_WEIGHTS_BYTES}: make the model smaller")


@click.command()
@click.option("--text", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--num-steps", type=click.IntRange(min=101), default=Recipe().num_steps, show_default=True)
def main(text: Path, out: Path, num_steps: int) -> None:
    """Train on the speeches of TEXT, which blank lines divide, and write the checkpoint to OUT."""
    recipe = Recipe(num_steps=num_steps)
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    parts = split_text(text.read_text(encoding="utf-8"))
    tokenizer = train_tokenizer(parts[0])
    ids, held_out = (torch.tensor(tokenizer("".join(p), add_special_tokens=False).input_ids) for p in parts)
    model = build_model(recipe.dropout)
    print(f"{model.num_parameters()} parameters; {len(ids)} tokens to train on, {len(held_out)} held out", flush=True)
    if len(ids) < 2 * CONTEXT_LENGTH or len(held_out) < recipe.short_length:
        raise click.ClickException(f"{text} is too short: give a text of 200 speeches and 20,000 characters or more")
    (newline,) = tokenizer("\n", add_special_tokens=False).input_ids
    train(model, ids, held_out, newline, recipe)
    save(model, tokenizer, out)


if __name__ == "__main__":
    main()
