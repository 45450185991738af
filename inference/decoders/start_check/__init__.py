"""Checks at every start that a decoder gives the logits of the model alone, before requests are taken.

`trial` compares them, and refuses a decoder whose logits differ. Before the decoder takes the model over, `texts` makes
texts with the logits that `model_alone` gives for their last tokens. `in_pieces` runs the decoder on the texts as it
runs requests, and `tolerance` says how far its logits are from the others, and whether that is near enough.
`length_trials` adds longer texts if the config has `named_lengths`, for the whole model or for its first `few_layers`,
as time allows. `rotations` refuses what cannot be right with any decoder. If weights are to be rounded, the model is
checked `before_rounding`, which could hide an error.

A GGUF file whose blocks are computed as they are has no model to compare with: a `corner` of its weights is tried, and
its logits must be `finite`.
"""
