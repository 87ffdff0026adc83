"""Verifiers with a recurrent part: their memory takes back only what it has snapshots of."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

from dflash_local import Llama, Session
from dflash_local.gguf_header import GGUFHeader

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, CONV = 64, 128, 4, 2, 3
LAYERS = ("conv", "attention", "conv", "attention")


def write_lfm2(path: Path, tokenizer: GGUFHeader) -> None:
    """A random LFM2: short convolutions and attention in turn, with the tiny models' tokenizer."""
    writer = gguf.GGUFWriter(path, "lfm2")
    writer.add_block_count(len(LAYERS))
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv([N_HEAD_KV if kind == "attention" else 0 for kind in LAYERS])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_shortconv_l_cache(CONV)
    tokens = tokenizer.get("tokenizer.ggml.tokens")
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(tokenizer.get("tokenizer.ggml.model"))
    writer.add_tokenizer_pre(tokenizer.get("tokenizer.ggml.pre"))
    writer.add_token_list(tokens)
    writer.add_token_types(tokenizer.get("tokenizer.ggml.token_type"))
    writer.add_token_merges([m.decode() for m in tokenizer.get("tokenizer.ggml.merges")])
    writer.add_eos_token_id(tokenizer.get("tokenizer.ggml.eos_token_id"))
    for name, values in lfm2_tensors(len(tokens)).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def lfm2_tensors(n_vocab: int) -> dict[str, Any]:
    rng = np.random.default_rng(7)

    def matrix(rows: int, columns: int) -> Any:
        scale = 1.5 / np.sqrt(columns)
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    head_dim = N_EMBD // N_HEAD
    tensors = {
        "token_embd.weight": matrix(n_vocab, N_EMBD) * 4,
        "token_embd_norm.weight": np.ones(N_EMBD, np.float32),
    }
    for i, kind in enumerate(LAYERS):
        prefix = f"blk.{i}."
        tensors |= {
            prefix + "attn_norm.weight": np.ones(N_EMBD, np.float32),
            prefix + "ffn_norm.weight": np.ones(N_EMBD, np.float32),
            prefix + "ffn_gate.weight": matrix(N_FF, N_EMBD),
            prefix + "ffn_up.weight": matrix(N_FF, N_EMBD),
            prefix + "ffn_down.weight": matrix(N_EMBD, N_FF),
        }
        if kind == "conv":
            tensors |= {
                prefix + "shortconv.conv.weight": matrix(N_EMBD, CONV),
                prefix + "shortconv.in_proj.weight": matrix(3 * N_EMBD, N_EMBD),
                prefix + "shortconv.out_proj.weight": matrix(N_EMBD, N_EMBD),
            }
            continue
        tensors |= {
            prefix + "attn_q.weight": matrix(N_EMBD, N_EMBD),
            prefix + "attn_k.weight": matrix(N_HEAD_KV * head_dim, N_EMBD),
            prefix + "attn_v.weight": matrix(N_HEAD_KV * head_dim, N_EMBD),
            prefix + "attn_output.weight": matrix(N_EMBD, N_EMBD),
            prefix + "attn_q_norm.weight": np.ones(head_dim, np.float32),
            prefix + "attn_k_norm.weight": np.ones(head_dim, np.float32),
        }
    return tensors


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory, tiny_verifier: Path) -> Path:
    path = tmp_path_factory.mktemp("hybrid") / "lfm2.gguf"
    write_lfm2(path, GGUFHeader(tiny_verifier))
    return path


OPTIONS: dict[str, Any] = {
    "n_ctx": 256,
    "n_threads": 1,
    "n_threads_batch": 1,
    "type_k": llama_cpp.GGML_TYPE_F32,
    "type_v": llama_cpp.GGML_TYPE_F32,
}
PROMPTS = ([5, 40, 99, 7], [200, 3, 3, 17, 250, 44], [60, 61, 62, 63, 64, 65, 66, 67])


def greedy(llm: Any, prompt: list[int], n: int) -> list[int]:
    return list(islice(llm.generate(prompt, temp=0.0), n))


@pytest.fixture
def plain(hybrid: Path) -> Iterator[llama_cpp.Llama]:
    llm = llama_cpp.Llama(str(hybrid), verbose=False, **OPTIONS)
    yield llm
    llm.close()


@pytest.fixture
def llm(hybrid: Path, tiny_drafters: dict[str, Path]) -> Iterator[Llama]:
    with Llama(hybrid, drafter=tiny_drafters["dflash-b8"], width=7, **OPTIONS) as drafting:
        assert drafting._is_hybrid
        yield drafting


@pytest.fixture
def session(llm: Llama) -> Session:
    assert llm.session is not None
    return llm.session


def test_greedy_output_of_a_hybrid_verifier_equals_plain_decoding(
    plain: llama_cpp.Llama, llm: Llama
) -> None:
    for prompt in PROMPTS:
        assert greedy(llm, prompt, 40) == greedy(plain, prompt, 40)
    total = llm.stats.total
    assert 0 <= total.n_accepted < total.n_drafted


def test_costs_of_a_hybrid_verifier_are_measured_and_adaptive_output_equals_plain_decoding(
    plain: llama_cpp.Llama,
    hybrid: Path,
    tiny_drafters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DFLASH_LOCAL_CACHE", str(tmp_path))
    with Llama(hybrid, drafter=tiny_drafters["dflash-b8"], **OPTIONS) as llm:
        assert llm.width is None
        assert all(seconds > 0 for seconds in llm.session.learned()["verify"])
        for prompt in PROMPTS:
            assert greedy(llm, prompt, 40) == greedy(plain, prompt, 40)


def test_rejected_drafts_are_taken_back_at_every_depth(
    plain: llama_cpp.Llama, session: Session
) -> None:
    prompt = PROMPTS[1]
    expected = greedy(plain, prompt, 60)
    session.sync(prompt)
    text = session.step().tokens
    depth = 0
    while len(text) < 48:
        right = expected[len(text) : len(text) + depth]
        draft = [*right, *((t + 1) % 300 for t in expected[len(text) + depth :][: 7 - depth])]
        result = session.step(draft=draft)
        assert result.n_accepted == depth
        text += result.tokens
        depth = (depth + 1) % 8
    assert text == expected[: len(text)]


def test_an_abandoned_generator_leaves_a_hybrid_verifier_usable(
    plain: llama_cpp.Llama, llm: Llama, session: Session
) -> None:
    prompt = PROMPTS[2]
    expected = greedy(plain, prompt, 24)
    for n in (1, 2, 3, 5, 8):
        generator = llm.generate(prompt, temp=0.0)
        assert list(islice(generator, n)) == expected[:n]
        generator.close()
        assert llm.n_tokens == session.n_past
    assert greedy(llm, prompt, 24) == expected


def plain_steps(session: Session, text: list[int], n: int) -> list[int]:
    while len(text) < n:
        text = text + session.step(draft=[]).tokens
    return text


def test_a_discarded_step_brings_back_no_state_of_another_text(
    plain: llama_cpp.Llama, session: Session
) -> None:
    # libllama takes back n_rs_seq rows whether or not the last decode wrote their snapshots.
    prompt = PROMPTS[0]
    expected = greedy(plain, prompt, 20)
    for n_drafts in range(8):
        session.sync(prompt)
        text = plain_steps(session, [], 4)
        session.propose(expected[4 : 4 + n_drafts])
        session.discard()
        session.sync([*prompt, *text])
        assert plain_steps(session, text, 16) == expected[:16]


def test_a_rewind_past_the_last_decode_reads_again(
    plain: llama_cpp.Llama, session: Session
) -> None:
    prompt = PROMPTS[0]
    expected = greedy(plain, prompt, 20)
    for back in range(1, 7):
        session.sync(prompt)
        text = plain_steps(session, [], 8)[: 8 - back]
        session.sync([*prompt, *text])
        assert plain_steps(session, text, 16) == expected[:16]


def test_a_memory_without_snapshots_decodes_plainly_and_says_so(
    plain: llama_cpp.Llama,
    hybrid: Path,
    tiny_drafters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As libllama answers for qwen3next and minimax-01, whatever it was asked for.
    monkeypatch.setattr(llama_cpp, "llama_n_rs_seq", lambda _context: 0)
    with pytest.warns(RuntimeWarning, match="decoding plainly"):
        llm = Llama(hybrid, drafter=tiny_drafters["dflash-b8"], **OPTIONS)
    with llm:
        assert greedy(llm, PROMPTS[0], 20) == greedy(plain, PROMPTS[0], 20)
        assert llm.stats.total.n_drafted == 0
