"""Make the tiny test models beside this file.

Usage: `python make_tiny.py [verifier | DRAFTER ... | --check]`; without arguments it makes all.
A verifier (llama, F32) is trained on a seeded grammar; each drafter then learns the verifier's own
greedy answers until about half of its drafts are accepted.
"""

from __future__ import annotations

import logging
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import llama_cpp
import torch
from tiny_gguf import (
    N_CTX,
    read_verifier,
    write_checkpoint,
    write_drafter,
    write_verifier,
    write_without_layer_inputs,
)
from tiny_loop import check
from tiny_text import END_OF_TEXT, IM_END, MASK, Tokenizer, document, prompt
from tiny_torch import Drafter, DrafterConfig, Verifier
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

HERE = Path(__file__).parent
VERIFIER = HERE / "verifier-f32.gguf"
N_VOCAB, N_LAYER, N_FF = 384, 4, 96
VERIFIER_STEPS = 1200
N_ANSWERS, N_HELD_OUT, ANSWER_TOKENS = 700, 60, 120
log = logging.getLogger("make_tiny")

PLAIN = DrafterConfig("dflash", 8, MASK, N_VOCAB, target_layers=(1, 2, 3))
DRAFTERS = {
    "dflash-b8": PLAIN,
    "dflash-b4": replace(PLAIN, block_size=4, target_layers=(1, 3)),
    "dflash2-b8": replace(PLAIN, kind="dflash2"),
    "dspark-b7-anchor": replace(PLAIN, kind="dspark", block_size=7, sample_from_anchor=True),
    "dspark-b8": replace(PLAIN, kind="dspark"),
}


def make_tokenizer() -> Tokenizer:
    rng = random.Random(1)
    text = "".join(document(rng) for _ in range(2000))
    return Tokenizer.learn(text, N_VOCAB - 4 - 256)


def window(rng: random.Random, tokenizer: Tokenizer) -> list[int]:
    """N_CTX + 1 tokens of whole documents, the last one cut."""
    tokens = [END_OF_TEXT] if rng.random() < 0.5 else []
    while len(tokens) <= N_CTX:
        tokens += tokenizer.encode(document(rng))
    return tokens[: N_CTX + 1]


def train_verifier(tokenizer: Tokenizer) -> Verifier:
    torch.manual_seed(0)
    rng = random.Random(2)
    model = Verifier(N_VOCAB, N_LAYER, N_FF)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 6e-3, total_steps=VERIFIER_STEPS, pct_start=0.1
    )
    for step in range(VERIFIER_STEPS):
        batch = torch.tensor([window(rng, tokenizer) for _ in range(8)])
        logits, _ = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == VERIFIER_STEPS - 1:
            log.info("verifier step %d loss %.3f", step, loss.item())
    return model.requires_grad_(False)


def greedy_answers(n: int) -> list[tuple[list[int], int]]:
    """libllama's greedy answers to n prompts: whole token sequences, and the prompts' sizes."""
    rng = random.Random(3)
    llama = llama_cpp.Llama(str(VERIFIER), n_ctx=N_CTX, n_threads=1, verbose=False)
    out: list[tuple[list[int], int]] = []
    while len(out) < n:
        tokens = llama.tokenize(prompt(rng).encode(), add_bos=False, special=True)
        start = len(tokens)
        if start > N_CTX - ANSWER_TOKENS:
            continue
        llama.reset()
        for token in llama.generate(list(tokens), temp=0.0):
            tokens.append(token)
            if token in (IM_END, END_OF_TEXT) or len(tokens) - start >= ANSWER_TOKENS:
                break
        out.append((tokens, start))
    return out


class Blocks(NamedTuple):
    features: Tensor  # [B, T, n_target_layers * H]
    anchors: Tensor  # [B, A]
    rows: Tensor  # [B, A, block, H], embeddings of the anchor and the masks
    tokens: Tensor  # [B, A, block + 1], what the block should hold, and the token after it; or -100

    def run(self, drafter: Drafter, verifier: Verifier) -> tuple[Tensor, Tensor]:
        """Hidden states [B, A, block, H] and logits [B, A, block, V]."""
        hidden = drafter(self.features, self.anchors, self.rows)
        return hidden, F.linear(hidden, verifier.embed_tokens.weight)


class Answers:
    """Greedy answers with the verifier's layer inputs, padded into batches."""

    def __init__(self, verifier: Verifier, answers: list[tuple[list[int], int]]) -> None:
        self.verifier = verifier
        self.answers = answers
        self.inputs = []
        for tokens, _ in answers:
            _, inputs = verifier(torch.tensor([tokens]))
            self.inputs.append(torch.cat(inputs, 0))  # [n_layer, n, H]

    def features(self, i: int, layers: tuple[int, ...]) -> Tensor:
        return torch.cat([self.inputs[i][layer] for layer in layers], -1)

    def blocks(self, config: DrafterConfig, which: list[int], anchors: Tensor) -> Blocks:
        """The blocks of the answers `which` [B] that begin at `anchors` [B, A]."""
        texts = [torch.tensor(self.answers[i][0] + [-100] * (config.block_size + 1)) for i in which]
        features = [self.features(i, config.target_layers) for i in which]
        at = anchors[:, :, None] + torch.arange(config.block_size + 1)
        tokens = torch.stack([t[a] for t, a in zip(texts, at, strict=True)])
        rows = torch.full_like(tokens[..., :-1], config.mask_id)
        rows[..., 0] = tokens[..., 0]
        padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        return Blocks(padded, anchors, self.verifier.embed_tokens(rows), tokens)


def draft_loss(drafter: Drafter, hidden: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """Weighted cross-entropy of the drafting rows, and DSpark's confidence."""
    config = drafter.config
    first = config.first_row
    hidden, logits = hidden[..., first:, :], logits[..., first:, :]
    labels = tokens[..., 1 : 1 + config.n_drafts]
    previous = tokens[..., : config.n_drafts].clamp(min=0)
    scores = logits + drafter.pairwise(hidden, previous)
    weight = torch.exp(-torch.arange(config.n_drafts) / 4.0) * (labels >= 0)

    def weighted(x: Tensor) -> Tensor:
        ce = F.cross_entropy(x.flatten(0, -2), labels.flatten(), reduction="none")
        return (ce.view_as(weight) * weight).sum() / weight.sum()

    loss = weighted(scores)
    if config.kind == "dflash2":
        loss = loss + 0.5 * weighted(logits)  # so that the candidates hold the right token
    if config.kind == "dspark":
        right = (scores.argmax(-1) == labels).float()
        sure = drafter.confidence(hidden.detach(), previous)
        loss = loss + F.binary_cross_entropy_with_logits(sure, right, weight)
    return loss


@torch.no_grad()
def acceptance_rate(drafter: Drafter, answers: Answers, which: list[int]) -> float:
    """Accepted drafts over drafted ones when the answers are walked through block by block."""
    drafted = accepted = 0
    for i in which:
        tokens, start = answers.answers[i]
        anchors = torch.arange(start, len(tokens) - 1)[None]
        if anchors.numel() == 0:
            continue
        blocks = answers.blocks(drafter.config, [i], anchors)
        drafts = drafter.propose(*blocks.run(drafter, answers.verifier), blocks.tokens[..., 0])
        right = drafts == blocks.tokens[..., 1 : 1 + drafts.shape[-1]]
        n_right = right.int().cumprod(-1).sum(-1)[0]
        at = 0
        while at < len(n_right):
            drafted += drafts.shape[-1]
            accepted += int(n_right[at])
            at += int(n_right[at]) + 1
    return accepted / max(drafted, 1)


def train_drafter(name: str, config: DrafterConfig, answers: Answers, target: float) -> Drafter:
    torch.manual_seed(sorted(DRAFTERS).index(name))
    rng = random.Random(4)
    n_train = len(answers.answers) - N_HELD_OUT
    held_out = list(range(n_train, len(answers.answers)))
    pool = [i for i in range(n_train) if len(answers.answers[i][0]) > answers.answers[i][1] + 2]
    drafter = Drafter(config)
    optimizer = torch.optim.AdamW(drafter.parameters(), lr=3e-3)
    for step in range(1, 4001):
        which = rng.sample(pool, 12)
        spans = [range(answers.answers[i][1], len(answers.answers[i][0]) - 1) for i in which]
        anchors = torch.tensor([rng.choices(span, k=12) for span in spans])
        blocks = answers.blocks(config, which, anchors)
        loss = draft_loss(drafter, *blocks.run(drafter, answers.verifier), blocks.tokens)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(drafter.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            rate = acceptance_rate(drafter, answers, held_out)
            log.info("%s step %d loss %.3f acceptance %.3f", name, step, loss.item(), rate)
            if rate >= target:
                break
    return drafter.requires_grad_(False)


def round_weights(drafter: Drafter) -> None:
    """Matrices to values that F16 and BF16 both hold, so that all files agree; norms to BF16."""
    for weight in drafter.parameters():
        rounded = weight.bfloat16().float()
        weight.copy_(torch.where(rounded.abs() < 2.0**-14, 0.0, rounded))


def common_tokens(answers: Answers, n: int) -> Tensor:
    """The n tokens that answers hold most often, the end of the answer among them; ascending."""
    counts = torch.zeros(N_VOCAB, dtype=torch.long)
    for tokens, start in answers.answers:
        counts += torch.bincount(torch.tensor(tokens[start:]), minlength=N_VOCAB)
    counts[IM_END] = counts.max() + 1
    return counts.topk(n).indices.sort().values


def make_drafter(name: str, answers: Answers, tokenizer: Tokenizer) -> None:
    drafter = train_drafter(name, DRAFTERS[name], answers, target=0.5)
    round_weights(drafter)
    write_drafter(HERE / f"{name}.gguf", drafter, tokenizer)
    if name == "dflash-b8":
        write_checkpoint(HERE / name, drafter, N_LAYER)
        ids = common_tokens(answers, 112)
        head = answers.verifier.embed_tokens.weight[ids], ids
        write_drafter(HERE / f"{name}-d2t.gguf", drafter, tokenizer, head)


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)8d ms  %(message)s")
    torch.set_num_threads(1)
    if arguments == ["--check"]:
        return check(HERE, random.Random(5))
    tokenizer = make_tokenizer()
    if not arguments or "verifier" in arguments:
        write_verifier(VERIFIER, train_verifier(tokenizer), tokenizer)
        write_without_layer_inputs(HERE / "verifier-nolayerinp.gguf", tokenizer)
    names = [name for name in DRAFTERS if not arguments or name in arguments]
    if names:
        answers = Answers(read_verifier(VERIFIER), greedy_answers(N_ANSWERS))
        for name in names:
            make_drafter(name, answers, tokenizer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
