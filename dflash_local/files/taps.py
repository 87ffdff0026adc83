"""How a verifier's architecture gives the inputs of its layers, which are a drafter's features.

What is not in this table is refused: on a graph that does not fill its layer inputs llama.cpp
asserts, and a graph's nodes are what somebody called them. (llama-cpp-python 0.3.36)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tap:
    """Where features come from.

    Attributes:
        node: how the architecture's graph names the output of a layer, before "-" and the layer:
            the callback tap, which reads it as the graph is computed. It is what the next layer
            takes in: after the residual is added, before any norm. None: the native tap, the layer
            inputs of libllama.
        gives_last: the output of the last layer is to be had as well.
    """

    node: str | None = None
    gives_last: bool = False

    def layers(self, n_layer: int) -> range:
        """The layers of a verifier whose inputs it gives."""
        # The input of layer 0 is no layer's output. Of the last layer's output a graph commonly
        # computes only the rows that get logits.
        first = 0 if self.node is None else 1
        return range(first, n_layer + (1 if self.gives_last else 0))


def _all(names: str, tap: Tap) -> Iterable[tuple[str, Tap]]:
    return ((name, tap) for name in names.split())


#: Graphs that fill the layer inputs, with the models that inherit them; then those whose nodes
#: are read. Where both would do, the native tap is the cheaper one.
TAPS: dict[str, Tap] = dict(
    [
        *_all(
            """
            bailingmoe3 gemma4 gpt-oss hunyuan-dense hunyuan_vl lfm2 lfm2moe llama minimax-01
            minimax-m2 muse-glimmer nanbeige qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen4exp
            """,
            Tap(),
        ),
        *_all("deepseek4 mimo2 nemotron_h nemotron_h_moe", Tap(gives_last=True)),
        *_all(
            """
            apertus arcee cohere2 command-r deepseek2 dots1 ernie4_5 ernie4_5-moe exaone4 falcon
            gemma gemma2 gemma3 glm4 glm4moe gptneox granite granitemoe hunyuan-moe mistral3
            nemotron olmo olmo2 olmoe phi2 phi3 qwen2 qwen2moe seed_oss smollm3 stablelm
            starcoder2
            """,
            Tap("l_out"),
        ),
    ]
)


def why_none(architecture: str) -> str:
    """What to tell of a verifier of an architecture that has no tap."""
    return (
        f"no drafter can read verifiers of architecture {architecture!r}: libllama gives no layer "
        "inputs for it, and it is not among those whose layers' outputs are known to be in the "
        f"graph; it is possible with: {', '.join(sorted(TAPS))}"
    )
