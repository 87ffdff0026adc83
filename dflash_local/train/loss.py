"""What a drafter is trained for: the verifier's next tokens, the early ones first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

#: Added to hit probabilities, so that a block that fails at once still teaches its later positions.
_SMOOTHING = 0.1


@dataclass(frozen=True)
class Targets:
    """What the verifier says at each predicted position of a block.

    Attributes:
        ids: [..., S - 1, k] its most likely tokens, best first, as indices into the head's rows;
            -1 for one that the head does not have.
        probs: [..., S - 1, k] their probabilities.
        valid: [..., S - 1] false behind the end of the text.
    """

    ids: Tensor
    probs: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Losses:
    """Sums over positions, so that parts of a batch add up.

    Attributes:
        loss: what is minimised.
        weight: of all positions together: the loss's own unit.
        n_blocks: blocks with at least one valid position.
        length: drafts accepted in them, were the verifier greedy.
        hits: [S - 1] positions whose best token is the verifier's, each judged alone.
        n_valid: [S - 1] positions judged.
    """

    loss: Tensor
    weight: Tensor
    n_blocks: Tensor
    length: Tensor
    hits: Tensor
    n_valid: Tensor

    @classmethod
    def nothing(cls, n_positions: int, device: torch.device) -> Losses:
        """The sums over no block."""
        count = torch.zeros((), dtype=torch.long, device=device)
        counts = torch.zeros(n_positions, dtype=torch.long, device=device)
        zero = torch.zeros((), device=device)
        return cls(zero, zero, count, count, counts, counts)


def losses(logits: Tensor, targets: Targets, *, soft: float, decay: float | None) -> Losses:
    """The loss of blocks, and how well they would draft.

    Args:
        logits: [..., S - 1, V] of the predicted positions.
        soft: share of the loss that is over the verifier's probabilities, not its best token.
        decay: position k weighs exp(-k / decay); None weighs positions by what they add to the
            expected accepted length (D-PACE, arXiv 2605.18810).
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    known = targets.ids >= 0
    at = log_probs.gather(-1, targets.ids.clamp(min=0))  # [..., S - 1, k]
    valid = targets.valid & known[..., 0]
    probs = targets.probs * known
    probs = probs / probs.sum(-1, keepdim=True).clamp(min=1e-9)
    each = -(1 - soft) * at[..., 0] - soft * (probs * at).sum(-1)
    weights = _weights(at[..., 0], valid, decay)
    hit = (logits.argmax(-1) == targets.ids[..., 0]) & valid
    flat = tuple(range(valid.dim() - 1))
    return Losses(
        loss=(each * weights).masked_fill(~valid, 0.0).sum(),
        weight=weights.sum(),
        n_blocks=valid[..., 0].sum(),
        length=hit.long().cumprod(-1).sum(),
        hits=hit.sum(flat),
        n_valid=valid.sum(flat),
    )


def _weights(log_prob: Tensor, valid: Tensor, decay: float | None) -> Tensor:
    """[..., S - 1], 0 where not valid; no gradient."""
    if decay is None:
        weights = pace_weights(log_prob.detach().exp())
    else:
        steps = torch.arange(valid.shape[-1], device=valid.device)
        weights = torch.exp(-steps / decay).expand(valid.shape)
    return weights * valid


def pace_weights(hit: Tensor) -> Tensor:
    """What a better position adds to the expected accepted length.

    That length is the sum over l of the product of hit probabilities up to l; its derivative by
    the log of one of them is the sum of the products that it is part of.

    Args:
        hit: [..., n] probabilities of hitting the verifier's token.
    """
    products = ((1 - _SMOOTHING) * hit + _SMOOTHING).cumprod(-1)
    return products.flip(-1).cumsum(-1).flip(-1)
