"""The tensors of a step: keys and values in their slots, the tokens laid out as a batch, and attention over both."""
