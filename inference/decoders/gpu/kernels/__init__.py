"""A step's kernels for a Llama-type model on a GPU, in Triton.

At one token, the products of a layer of a 1.1B model read 92 MB, which takes a large GPU 22 µs, and each of the twenty
small operators between them takes another 2 to 5. So here a kernel does all that lies between two reads of weights:

    products.py     multiply: one row times a matrix, with the norm before it, and the gate or the residual after it
    elementwise.py  rms_norm, gate: what `multiply` does along the way, for more rows than one; embed, the first kernel
    rows.py         attend_rows: rotates a token's query and key, stores the key and value, and attends to its slot
    prompts.py      attend_chunks: the same for prompts, whose tokens must all be stored before the first one attends
    choice.py       most_likely: the last kernel of a greedy step
    draw.py         draw: the last kernel of a step with rows that are sampled
    limits.py       what top_k and top_p keep, for draw

`attention.py` is what the two kinds of attention share, `overlap.py` what all kernels do when they begin, and
`meeting.py` how the programs that share a row of logits wait for one another.

Every kernel reads a slot up to its own token and no further: there are no masks, and nothing to clear. A row whose slot
is -1 is unused: it stores nothing, and what it computes is not read.
"""

from inference.decoders.gpu.kernels.attention import Cached, Heads
from inference.decoders.gpu.kernels.choice import most_likely
from inference.decoders.gpu.kernels.draw import SETTINGS, draw
from inference.decoders.gpu.kernels.elementwise import embed, gate, rms_norm
from inference.decoders.gpu.kernels.products import multiply
from inference.decoders.gpu.kernels.prompts import attend_chunks, tokens_per_block
from inference.decoders.gpu.kernels.rows import attend_rows

__all__ = [
    "SETTINGS",
    "Cached",
    "Heads",
    "attend_chunks",
    "attend_rows",
    "draw",
    "embed",
    "gate",
    "most_likely",
    "multiply",
    "rms_norm",
    "tokens_per_block",
]
