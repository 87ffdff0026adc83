"""Which of the verifier's layers a drafter reads, by what its config says."""

from __future__ import annotations

from collections.abc import Sequence

from dflash_local.files import layer_ids

from ..reading.fields import Fields

# Graphs of libllama that also offer the output of their last layer, before the final norm.
TAP_AFTER_LAST_LAYER = frozenset({"deepseek4", "mimo2", "nemotron_h", "nemotron_h_moe"})


def published_ids(draft: Fields, n_layer: int, warnings: list[str]) -> tuple[int, ...]:
    """The layers whose outputs a drafter reads, whatever its config calls them.

    `target_layer_ids` names outputs; `aux_hidden_state_layer_ids` counts hidden states, of which
    the embeddings are the first, so each is one more. Without either it is z-lab's default.
    """
    ids, inputs = (
        draft.integers(name) for name in ("target_layer_ids", "aux_hidden_state_layer_ids")
    )
    if inputs is not None:
        outputs = tuple(layer_ids.published_ids(inputs))
        if ids not in (None, outputs):
            draft.problems.append(
                f"`target_layer_ids` {list(ids or ())} and `aux_hidden_state_layer_ids` "
                f"{list(inputs)} disagree: expected the latter to be one more each"
            )
        return outputs
    named = ("target_layer_ids", "aux_hidden_state_layer_ids")
    if ids is not None or any(draft.get(name) is not None for name in named):
        return ids or ()
    ids = tuple(default_ids(draft.integer("num_target_layers"), n_layer))
    warnings.append(f"no `target_layer_ids`: took z-lab's default, {list(ids)}")
    return ids


def counted_from(first: int, ids: Sequence[int]) -> tuple[int, ...]:
    """Open Spec's ids as outputs of layers: they count from 0 or, as hidden states, from 1."""
    return tuple(layer - first for layer in ids)


def default_ids(n_verifier_layers: int, n_drafter_layers: int) -> list[int]:
    """The published ids z-lab's model assumes where its config names none."""
    if n_drafter_layers == 1:
        return [n_verifier_layers // 2]
    span = n_verifier_layers - 4
    return [round(1 + i * span / (n_drafter_layers - 1)) for i in range(n_drafter_layers)]


def problems(published_ids: Sequence[int], architecture: str, n_verifier_layers: int) -> list[str]:
    """Say which ids the verifier cannot serve: one line each, found against expected."""
    highest = n_verifier_layers if architecture in TAP_AFTER_LAST_LAYER else n_verifier_layers - 1
    wrong = [
        layer
        for layer, tapped in zip(published_ids, layer_ids.layer_inputs(published_ids), strict=True)
        if not 0 <= tapped <= highest
    ]
    return [_describe(layer, architecture, n_verifier_layers) for layer in wrong]


def _describe(layer: int, architecture: str, n_verifier_layers: int) -> str:
    if layer == n_verifier_layers - 1:
        return (
            f"target layer {layer} is the verifier's last: libllama has no tap after it for "
            f"architecture {architecture!r}; expected ids up to {layer - 1}"
        )
    return (
        f"target layer {layer} does not exist: the verifier has {n_verifier_layers} layers, "
        f"0 to {n_verifier_layers - 1}"
    )
