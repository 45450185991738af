"""Whether a decoder gives the logits that the model gives by itself: asked at every start, before a port is open."""
