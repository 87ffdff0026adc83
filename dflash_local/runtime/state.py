"""What ``Llama.save_state`` gives: the parent's state and the drafter's memory."""

from __future__ import annotations

import llama_cpp


class LlamaState(llama_cpp.LlamaState):  # type: ignore[misc]
    """The parent's state and the drafter's memory. ``llama_cpp.Llama`` can load it too.

    Attributes:
        drafter_id: tells the drafter that the memory belongs to.
        drafter_state: the drafter's memory.
        n_features: positions of which it holds features.
        contiguous: the drafter had seen all that was decoded, but for a block in flight.
    """

    def __init__(
        self,
        state: llama_cpp.LlamaState,
        *,
        drafter_id: str,
        drafter_state: bytes,
        n_features: int,
        contiguous: bool,
    ) -> None:
        super().__init__(
            input_ids=state.input_ids,
            scores=state.scores,
            n_tokens=state.n_tokens,
            llama_state=state.llama_state,
            llama_state_size=state.llama_state_size,
            seed=state.seed,
        )
        self.drafter_id = drafter_id
        self.drafter_state = drafter_state
        self.n_features = n_features
        self.contiguous = contiguous
