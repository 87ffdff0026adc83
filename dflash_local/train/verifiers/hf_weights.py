"""What training takes from a Hugging Face model: sizes, embedding, head and layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from dflash_local.errors import ModelError
from dflash_local.train.conversations import Conversation
from dflash_local.train.rope import rope_theta

from .hf_model import HfModel
from .verifier import Floats, Sizes

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS_FROM_ZERO = "gemma"  # its norms multiply by 1 + weight


class HfWeights:
    """Weights and sizes of a verifier; the model is loaded when a weight is asked for."""

    def __init__(self, files: HfModel) -> None:
        self._files = files
        self.sizes = _sizes(files)

    @property
    def embedding(self) -> Floats:
        """[n_vocab, n_embd]"""
        return _floats(self._files.model.get_input_embeddings().weight)

    @property
    def head(self) -> Floats:
        """[n_vocab, n_embd]; the embedding where the two are tied."""
        return _floats(self._files.model.get_output_embeddings().weight)

    @property
    def output_norm(self) -> Floats:
        """[n_embd]"""
        return _floats(self._files.model.model.norm.weight)

    def has_part(self, layer: int, name: str) -> bool:
        """Whether a layer has it, and is one that a drafter's layer can be."""
        return _NAMES[name] in self._parts(layer)

    def part(self, layer: int, name: str) -> Floats:
        """A tensor of a layer; q and k are stored for a rotation of halves."""
        module = self._files.model.model.layers[layer].get_submodule(_NAMES[name])
        return _floats(module.weight)

    def mask_token(self, texts: Iterable[Conversation]) -> int:
        """The tokenizer's own mask, else a special token, or a row behind the vocabulary, that no
        text holds.

        Raises:
            ModelError: there is none.
        """
        tokenizer = self._files.tokenizer
        if tokenizer.mask_token_id is not None:
            return int(tokenizer.mask_token_id)
        used = {token for text in texts for token in text.tokens}
        used |= {tokenizer.bos_token_id, *self._files.ends}
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        special = sorted(token for token, entry in added.items() if entry.special)
        behind = range(len(tokenizer), self.sizes.n_vocab)
        free: list[int] = [token for token in (*special, *behind) if token not in used]
        if not free:
            raise ModelError(
                f"{self._files.folder} has no special token left over: name one (--mask-token)"
            )
        return free[0]

    def _parts(self, layer: int) -> set[str]:
        """Names of a layer's modules with weights; none where a drafter's layer has not the same:
        weights that are no plain numbers, other norms, more modules, queries with gates."""
        config = self._files.config
        quantised = getattr(config, "quantization_config", None) is not None
        if quantised or config.model_type.startswith(_NORMS_FROM_ZERO):
            return set()
        module: nn.Module = self._files.model.model.layers[layer]
        shapes = {name: weight.shape for name, weight in module.named_parameters()}
        names = {name.rpartition(".")[0] for name in shapes}
        queries = shapes.get(f"{_NAMES['attn_q']}.weight")
        plain = queries is not None and queries[0] == self.sizes.n_head * self.sizes.head_dim
        return names if plain and names <= {*_NAMES.values()} else set()


def _floats(weight: Tensor) -> Floats:
    values: Floats = weight.detach().float().cpu().numpy()
    return values


def _sizes(files: HfModel) -> Sizes:
    config = files.config

    def key(name: str, default: Any = None) -> Any:
        value = getattr(config, name, None)
        value = default if value is None else value
        if value is None:
            raise _missing(files, name)
        return value

    n_embd, n_head = key("hidden_size"), key("num_attention_heads")
    try:
        theta = rope_theta(config)
    except (AttributeError, TypeError, ValueError) as error:
        raise _missing(files, "rope_theta") from error
    return Sizes(
        architecture=str(config.model_type),
        n_layer=key("num_hidden_layers"),
        n_embd=n_embd,
        n_ff=key("intermediate_size", 3 * n_embd),
        n_head=n_head,
        n_head_kv=key("num_key_value_heads", n_head),
        head_dim=key("head_dim", n_embd // n_head),
        n_ctx=key("max_position_embeddings"),
        n_vocab=key("vocab_size"),
        rms_eps=key("rms_norm_eps", 1e-6),
        rope_theta=theta,
    )


def _missing(files: HfModel, name: str) -> ModelError:
    return ModelError(f"{files.folder}: config.json has no {name}, expected one for all layers")
