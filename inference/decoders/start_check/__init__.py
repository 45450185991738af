"""Whether a decoder gives the logits that the model gives by itself: asked at every start, before a port is open.

`trial` asks, and refuses what is not right. Before the decoder takes the model over, `texts` makes texts, with the
logits that `model_alone` gives for their last tokens. `in_pieces` then runs the decoder on them as requests run, and
`tolerance` says how far its logits are from those, and whether that is near enough. `length_trials` adds longer texts,
where the config has `named_lengths`, for the whole model or for its first `few_layers`, as time allows.

The blocks of a GGUF file become no model that could say anything by itself: there a `corner` of the weights is tried.
"""
