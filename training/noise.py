"""How people really type: no capitals, no question mark, a "please", a slip of the finger.

Noise never touches a digit or a word with one in it, so no question changes its meaning.
"""

from random import Random

BEFORE = (
    "please ", "Please, ", "hey, ", "Hi! ", "Hello, ", "hi, ",
    "ok, ", "Okay. ", "um, ", "so, ", "Question: ", "Q: ",
    "One question: ", "Tell me, ", "Quick question: ", "Hey there! ",
    "Now: ", "Next question: ", "I wonder: ", "well, ",
    "I am curious: ", "Be so kind: ", "Sorry, ", "And ", "But ",
)  # fmt: skip
AFTER = (
    " please", " please.", ", please", " Thanks!", " thank you", " thanks", " Please be brief.", " :)", "\nA:",
    "\nAnswer:", " I would like to know.", " I am new to this.", " In one sentence.", " Just curious.",
)  # fmt: skip
NEIGHBOURS = {
    "a": "qs", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "wa", "r": "et", "s": "ad", "t": "ry",
    "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip


def typo(rng: Random, text: str) -> str:
    """One slip in one longer word: a letter lost, doubled, swapped with the next, or its neighbour's key."""
    words = text.split(" ")
    long = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha() and w.isascii()]
    if not long:
        return text
    i = rng.choice(long)
    word = words[i]
    at = rng.randrange(1, len(word) - 1)
    match rng.randrange(4):
        case 0:
            word = word[:at] + word[at + 1 :]
        case 1:
            word = word[:at] + word[at] + word[at:]
        case 2:
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case _:
            word = word[:at] + rng.choice(NEIGHBOURS.get(word[at].lower(), "e")) + word[at + 1 :]
    words[i] = word
    return " ".join(words)


def noisy(rng: Random, question: str, typos: bool = True) -> str:
    """The question as a person in a hurry would type it; about half of all come through untouched."""
    if rng.random() < 0.45:
        return question
    text = question
    if typos and rng.random() < 0.15:
        text = typo(rng, text)
    if rng.random() < 0.15:
        before = rng.choice(BEFORE)
        if before.isalpha() or before.strip().endswith(","):
            text = text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text
        text = before + text
    if rng.random() < 0.12:
        text = text + rng.choice(AFTER)
    if rng.random() < 0.4:
        text = text.rstrip("?.! ")
    dice = rng.random()
    if dice < 0.3:
        text = text.lower()
    elif dice < 0.34:
        text = text.upper()
    elif dice < 0.4:
        text = text[:1].upper() + text[1:]
    dice = rng.random()
    if dice < 0.03:
        text += rng.choice(("?", "??", "!", "...", " ?"))
    elif dice < 0.07:
        text += rng.choice((" ", "\n", "\n\n"))
    return text
