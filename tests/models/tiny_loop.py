"""Speculative decoding over libllama by ctypes, and the check of the tiny models with it.

It repeats upstream's loop (llama.cpp, common/speculative.cpp) as plainly as possible.
"""

from __future__ import annotations

import ctypes
import logging
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from numpy.typing import NDArray
from tiny_gguf import N_CTX, read_drafter, read_tokenizer, read_verifier
from tiny_text import END_OF_TEXT, IM_END, prompt
from tiny_torch import Drafter, Verifier
from torch.nn import functional as F  # noqa: N812

Floats = NDArray[np.float32]
Pointer = ctypes.POINTER(ctypes.c_float)
log = logging.getLogger("make_tiny")


def extension(name: str, suffix: str, result: Any, *arguments: Any) -> Any:
    """A function of libllama's that is exported under its mangled name (Itanium)."""
    function = getattr(llama_cpp.llama_cpp._lib, f"_Z{len(name)}{name}{suffix}")
    function.restype, function.argtypes = result, [ctypes.c_void_p, *arguments]
    return function


set_layer_inp = extension(
    "llama_set_embeddings_layer_inp", "P13llama_contextjb", None, ctypes.c_uint32, ctypes.c_bool
)
get_layer_inp = extension(
    "llama_get_embeddings_layer_inp", "P13llama_contextj", Pointer, ctypes.c_uint32
)
set_nextn = extension(
    "llama_set_embeddings_nextn", "P13llama_contextbb", None, ctypes.c_bool, ctypes.c_bool
)
get_nextn = extension("llama_get_embeddings_nextn", "P13llama_context", Pointer)


def rows(pointer: Any, n: int, width: int) -> Floats:
    out: Floats = np.ctypeslib.as_array(pointer, (n, width)).copy()
    return out


class Model:
    """A model of libllama's with a context; everything in sequence 0, K/V in F32."""

    context: Any

    def __init__(self, path: Path, other: Model | None = None) -> None:
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"libllama does not load {path}"
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = N_CTX
        # flash attention on a CPU is off by 1e-2 in logits, even with K/V in F32
        context.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context.n_threads = context.n_threads_batch = 1
        context.type_k = context.type_v = llama_cpp.GGML_TYPE_F32
        if other is not None:
            context.ctx_other = other.context
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.n_embd = llama_cpp.llama_model_n_embd(self.model)

    def close(self) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def decode(self, items: list[int] | Floats, start: int, outputs: bool = True) -> Floats:
        """Decode tokens, or rows of features, at positions from `start`; logits of every row."""
        n, width = len(items), 0 if isinstance(items, list) else items.shape[1]
        batch = llama_cpp.llama_batch_init(n, width, 1)
        batch.n_tokens = n
        for i in range(n):
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = start + i, 1, 0
            batch.logits[i] = outputs
            if width == 0:
                batch.token[i] = items[i]
        if not isinstance(items, list):
            ctypes.memmove(batch.embd, np.ascontiguousarray(items).ctypes.data, items.nbytes)
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        assert status == 0, f"llama_decode: {status}"
        if not outputs:
            return np.empty((0, self.n_vocab), np.float32)
        return rows(llama_cpp.llama_get_logits(self.context), n, self.n_vocab)

    def trim(self, n: int) -> None:
        memory = llama_cpp.llama_get_memory(self.context)
        assert llama_cpp.llama_memory_seq_rm(memory, 0, n, -1)


class Pair:
    """A verifier and its drafter in libllama."""

    def __init__(self, verifier: Model, path: Path, drafter: Drafter) -> None:
        self.verifier, self.drafter = verifier, Model(path, verifier)
        self.config = drafter.config
        llama_cpp.llama_set_causal_attn(self.drafter.context, False)
        set_nextn(self.drafter.context, self.config.kind != "dflash", self.config.kind == "dspark")
        for layer in self.config.target_layers:
            set_layer_inp(verifier.context, layer, True)
        self.features = np.empty((0, len(self.config.target_layers) * verifier.n_embd), np.float32)
        self.block_logits: Floats = np.empty(0, np.float32)
        self.side: Floats = np.empty(0, np.float32)  # the lattice, or the confidence

    def restart(self) -> None:
        self.verifier.trim(0)
        self.drafter.trim(0)
        self.features = self.features[:0]

    def verify(self, tokens: list[int], start: int) -> Floats:
        """Decode on the verifier and remember the features of these rows."""
        logits, n = self.verifier.decode(tokens, start), len(tokens)
        get, ctx = get_layer_inp, self.verifier.context
        taps = [rows(get(ctx, i), n, self.verifier.n_embd) for i in self.config.target_layers]
        self.features = np.concatenate([self.features[:start], np.concatenate(taps, 1)])
        return logits

    def keep(self, start: int, end: int) -> None:
        """Inject the features of positions start to end, and forget what lies behind."""
        self.features = self.features[:end]
        self.verifier.trim(end)
        self.drafter.decode(self.features[start:end], start, outputs=False)

    def draft(self, last: int, start: int) -> list[int]:
        config = self.config
        lattice = config.kind == "dflash2"
        block = [last] + [config.mask_id] * (config.block_size - 1)
        self.block_logits = self.drafter.decode(block, start, outputs=not lattice)
        if config.kind != "dflash":
            self.side = rows(get_nextn(self.drafter.context), len(block), self.drafter.n_embd)
        self.drafter.trim(start)
        if lattice:
            return self.walk()
        return [int(i) for i in self.block_logits[config.first_row :].argmax(1)]

    def walk(self) -> list[int]:
        """The best path through DFlash2's lattice: k candidates, then k x k scores, a row each."""
        k, previous, path = self.config.top_k, 0, []
        for row in self.side[1:]:
            scores = row[k + previous * k : k + (previous + 1) * k]
            previous = int(scores.argmax())
            path.append(int(row[previous]))
        return path


@dataclass
class Report:
    """What the loop counted, and how it compares with torch."""

    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    mixed: list[bool] = field(default_factory=list)  # an answer with accepted and rejected drafts
    same: list[bool] = field(default_factory=list)  # a draft of libllama's equals torch's
    errors: list[float] = field(default_factory=list)  # relative, of logits or confidence

    @property
    def rate(self) -> float:
        return self.accepted / self.drafted

    def __str__(self) -> str:
        return (
            f"acceptance rate {self.rate:.2f}, length {1 + self.accepted / self.steps:.2f}; "
            f"mixed in {sum(self.mixed)} of {len(self.mixed)} answers; drafts equal torch's "
            f"{np.mean(self.same):.4f}"
            + (f", largest relative error {max(self.errors):.1e}" if self.errors else "")
        )


def plain(verifier: Model, tokens: list[int], n: int) -> list[int]:
    verifier.trim(0)
    logits = verifier.decode(tokens, 0)
    out = [int(logits[-1].argmax())]
    while len(out) < n and out[-1] not in (IM_END, END_OF_TEXT):
        out.append(int(verifier.decode([out[-1]], len(tokens) + len(out) - 1)[0].argmax()))
    return out


@dataclass
class Torch:
    """The same pair in torch; `only` holds the tokens of a reduced vocabulary."""

    verifier: Verifier
    drafter: Drafter
    only: torch.Tensor | None

    def compare(self, pair: Pair, text: list[int], drafts: list[int], report: Report) -> None:
        """Compare libllama's block after `text`, whose last token is the anchor."""
        config, first = self.drafter.config, self.drafter.config.first_row
        _, inputs = self.verifier(torch.tensor([text[:-1]]))
        features = torch.cat([inputs[i] for i in config.target_layers], -1)
        block = torch.tensor([[text[-1:] + [config.mask_id] * (config.block_size - 1)]])
        anchor = torch.tensor([[len(text) - 1]])
        hidden = self.drafter(features, anchor, self.verifier.embed_tokens(block))
        logits = F.linear(hidden, self.verifier.embed_tokens.weight)
        if self.only is not None:
            kept = torch.full_like(logits, -torch.inf)
            logits = kept.index_copy(-1, self.only, logits[..., self.only])
        expected = self.drafter.propose(hidden, logits, block[..., 0])[0, 0]
        report.same += [a == b for a, b in zip(drafts, expected.tolist(), strict=True)]
        if config.kind == "dflash":
            report.errors.append(relative_error(pair.block_logits[1:], logits[0, 0, 1:]))
        if config.kind == "dspark" and drafts == expected.tolist():
            previous = torch.cat([block[0, 0, :1], expected[:-1]])
            sure = self.drafter.confidence(hidden[0, 0, first:], previous).sigmoid()
            report.errors.append(relative_error(pair.side[first:, 0], sure))


def relative_error(ours: Floats, theirs: torch.Tensor) -> float:
    finite = np.isfinite(ours)
    expected = theirs.numpy()[finite]
    return float(np.abs(ours[finite] - expected).max() / np.abs(expected).max())


def speculate(pair: Pair, reference: Torch, tokens: list[int], n: int, report: Report) -> list[int]:
    """At most n tokens after `tokens`, greedily, with every block compared with torch's."""
    pair.restart()
    text, drafted, accepted = list(tokens), report.drafted, report.accepted
    logits = pair.verify(text, 0)
    pair.keep(0, len(text))
    text.append(int(logits[-1].argmax()))
    while len(text) - len(tokens) < n and text[-1] not in (IM_END, END_OF_TEXT):
        start = len(text) - 1
        drafts = pair.draft(text[-1], start)
        reference.compare(pair, text, drafts, report)
        for row, draft in zip(pair.verify([text[-1], *drafts], start), [*drafts, -1], strict=True):
            text.append(int(row.argmax()))
            if text[-1] != draft:
                break
            report.accepted += 1
            if draft in (IM_END, END_OF_TEXT):
                break
        report.drafted += len(drafts)
        report.steps += 1
        pair.keep(start, len(text) - 1)
    report.mixed.append(0 < report.accepted - accepted < report.drafted - drafted)
    return text[len(tokens) :][:n]


def check_verifier(folder: Path, texts: list[list[int]]) -> Verifier:
    """The committed verifier in torch, after comparing its logits with libllama's."""
    path = folder / "verifier-f32.gguf"
    verifier, model = read_verifier(path), Model(path)
    worst = 0.0
    for tokens in texts:
        model.trim(0)
        expected = verifier(torch.tensor([tokens]))[0][0].numpy()
        worst = max(worst, float(np.abs(model.decode(tokens, 0) - expected).max()))
    model.close()
    log.info("verifier: largest difference of logits to torch %.1e", worst)
    assert worst < 1e-3, worst
    return verifier


def check_tokenizer(folder: Path, texts: list[str]) -> None:
    path = folder / "verifier-f32.gguf"
    ours, llama = read_tokenizer(path), llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in texts:
        theirs = llama.tokenize(text.encode(), add_bos=False, special=True)
        assert ours.encode(text) == theirs, text


def check_drafter(path: Path, verifier: Verifier, prompts: list[list[int]]) -> Report:
    reference = Torch(verifier, *read_drafter(path))
    model = Model(path.parent / "verifier-f32.gguf")
    pair, report = Pair(model, path, reference.drafter), Report()
    for tokens in prompts:
        expected = plain(model, tokens, 100)
        assert speculate(pair, reference, tokens, 100, report) == expected
    pair.drafter.close()
    model.close()
    return report


def check(folder: Path, rng: random.Random) -> int:
    """Check every committed file on fresh prompts; 1 if one fails."""
    texts = [prompt(rng) for _ in range(40)]
    check_tokenizer(folder, texts)
    tokenizer = read_tokenizer(folder / "verifier-f32.gguf")
    prompts = [tokenizer.encode(text) for text in texts]
    verifier = check_verifier(folder, prompts)
    failed = 0
    for path in sorted([*folder.glob("dflash*.gguf"), *folder.glob("dspark*.gguf")]):
        report = check_drafter(path, verifier, prompts)
        log.info("%-16s %s", path.stem, report)
        failed += not (0.3 <= report.rate <= 0.7 and np.mean(report.same) > 0.99)
    return int(failed > 0)
