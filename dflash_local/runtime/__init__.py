"""``Llama``: the drafter beside the verifier, and the text that they go on with."""
