"""The sampler's parts: changes to the logits, the choice of a token in torch and in C++, log probabilities."""
