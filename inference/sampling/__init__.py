"""From a step's logits to its tokens.

`sampler` is the interface. A chooser changes logits (`adjustments`) and draws tokens (`draw`), in torch; `choose` calls
the one in C++, which is compiled from `source`. `logprobs` reports log probabilities.
"""
