"""The words that stories, poems and unknown questions draw from, and invented ones.

Held out: an eighth of the nouns. A story about a held-out animal shows whether the model copies its subject.
"""

# ruff: noqa: SIM905 (a list of words reads best as a sentence)

import re
from functools import cache
from pathlib import Path
from random import Random

from training.split import divide

ANIMALS_ALL = (
    "dragon cat dog fox owl whale mouse bear wolf rabbit hedgehog elephant giraffe lion tiger penguin turtle frog "
    "sparrow crow raven eagle swan goose duck hen rooster horse pony donkey goat sheep lamb cow pig squirrel beaver "
    "otter seal dolphin shark octopus crab snail spider beetle ant bee butterfly moth cricket firefly bat badger mole "
    "deer moose camel llama kangaroo koala panda monkey gorilla parrot peacock flamingo pelican heron stork kitten "
    "puppy lizard snake crocodile dinosaur unicorn phoenix griffin goldfish salmon jellyfish starfish hamster ferret "
    "raccoon skunk porcupine walrus reindeer zebra hippo rhino leopard cheetah hyena jackal lynx weasel magpie robin "
    "wren seagull albatross toad newt salamander worm caterpillar dragonfly grasshopper yak buffalo bison ostrich emu "
    "sloth armadillo chameleon gecko mammoth kraken yeti troll goblin elf dwarf giant fairy mermaid ghost robot android"
).split()
PEOPLE_ALL = (
    "baker wizard princess knight pirate sailor fisherman farmer gardener teacher painter musician clockmaker "
    "shoemaker tailor blacksmith carpenter miller shepherd hunter cook waiter librarian astronomer astronaut inventor "
    "engineer programmer doctor nurse pilot driver postman watchmaker glassblower potter weaver beekeeper ferryman "
    "king queen prince witch magician juggler clown dancer singer poet writer student traveller explorer detective "
    "scientist chemist mapmaker bookseller barber firefighter policeman soldier mayor judge monk nun grandmother "
    "grandfather girl boy child twin orphan merchant beggar thief guard gatekeeper miner diver climber runner swimmer "
    "cyclist mechanic plumber electrician photographer sculptor drummer violinist pianist"
).split()
THINGS_ALL = (
    "kite lighthouse key lamp bicycle boat train balloon clock mirror umbrella teapot violin piano drum guitar book "
    "letter map compass lantern candle bell ladder bridge tower castle mill garden rose sunflower tree oak apple pear "
    "pumpkin mushroom acorn stone pebble shell pearl coin ring crown sword shield hat coat shoe scarf glove button "
    "needle thread basket bottle jar spoon cup plate chair table bed window door wall roof chimney stove kettle broom "
    "wheel cart wagon sled ship raft canoe rocket telescope radio computer printer keyboard server router cable pencil "
    "brush painting statue fountain well river lake mountain hill valley cave island forest meadow field cloud rainbow "
    "star comet planet snowflake snowman puddle leaf feather nest egg cake pie cookie pancake sandwich soup "
    "suitcase backpack ticket photograph puzzle kaleidoscope marble toy doll puppet whistle flute trumpet harp"
).split()
MATTERS_ALL = (
    "the sea; the moon; the sun; the wind; the rain; snow; winter; spring; summer; autumn; night; morning; the stars; "
    "friendship; love; courage; patience; hope; silence; music; the city; the forest; the mountains; the desert; home; "
    "time; dreams; sleep; kindness; honesty; a journey; a birthday; the ocean; fire; water; the sky; thunder; fog; "
    "bread; tea; coffee; cheese; colours; numbers; words; tokens; a long stream; the harvest; the harbour; rivers; "
    "clouds; shadows; light; darkness; peace; laughter; tears; luck; a wish; a secret; a promise; the north; "
    "the garden; an old house; the market; school; childhood; memory; distance; the horizon; the tide; a storm; "
    "a quiet day; sunrise; sunset; midnight; the first snow; falling leaves; an empty street; the last train; "
    "books; stories"
).split("; ")
PLACES = (
    "a quiet valley", "a town by the sea", "an old forest", "a village on a hill", "a house at the edge of the wood",
    "a city with a hundred bridges", "the far north", "a small harbour town", "a country full of apple trees",
    "a valley between two mountains", "an island in a green lake", "a street with crooked houses",
    "a village where it always smelled of bread", "a town with a blue tower", "the land behind the fog",
    "a tiny kingdom", "a village by the river", "a castle with too many stairs",
)  # fmt: skip
ADJECTIVES = (
    "small little tiny brave clever shy lonely old young tired hungry curious friendly quiet sleepy proud gentle "
    "forgetful cheerful grumpy polite stubborn patient silver golden blue red green purple white black striped spotted "
    "invisible enormous round thin wise foolish lucky unlucky lazy busy noisy careful dreamy honest lost famous poor "
    "rich strange magical nervous playful slow quick blind singing dancing flying wandering hidden forgotten broken "
    "wooden paper glass iron tin orange yellow grey pink kind angry sad happy"
).split()
NAMES = (
    "Mira Tom Ada Leo Nina Otto Ida Max Lena Finn Ruby Hugo Clara Emil Zoe Oskar Lily Jonas Ella Noah Anna Felix Maya "
    "Theo Iris Paul Juna Ben Rosa Milo Tara Nils Vera Sam Dora Kai Alma Rafi Luna Piet Suri Bruno Mina Erik Yara Tim"
).split()

ANIMALS, NEW_ANIMALS = divide(ANIMALS_ALL, 1 / 8)
PEOPLE, NEW_PEOPLE = divide(PEOPLE_ALL, 1 / 8)
THINGS, NEW_THINGS = divide(THINGS_ALL, 1 / 8)
MATTERS, NEW_MATTERS = divide(MATTERS_ALL, 1 / 8)
# A thing that a taught matter names ("the garden") is neither taught as a thing nor examined.
NEW_THINGS = [thing for thing in NEW_THINGS if not any(thing in matter.split() for matter in MATTERS)]

_NEW = frozenset((*NEW_ANIMALS, *NEW_PEOPLE, *NEW_THINGS))

_ONSETS = "b br c ch d dr f fl g gl h j k l m n p pl qu r s sh sn st t tr v w z".split()
_VOWELS = "a e i o u oo ee ai".split()
_CODAS = "b d ck g l m n p r s t x ll rn mp nd".split()
_COINED = re.compile(f"(({'|'.join(_ONSETS)})({'|'.join(_VOWELS)}))+({'|'.join(_CODAS)})")

# Held out, but for the words that `invented` may hit upon, like "troll": of these the model says that it knows nothing.
EXAMINED_ANIMALS, EXAMINED_PEOPLE, EXAMINED_THINGS = (
    [word for word in held_out if not _COINED.fullmatch(word)] for held_out in (NEW_ANIMALS, NEW_PEOPLE, NEW_THINGS)
)


def invented(rng: Random) -> str:
    """A word that is in no text, like `snoobrick`, to ask about what does not exist."""
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 3)))]
    return "".join(syllables) + rng.choice(_CODAS)


def with_article(noun: str) -> str:
    """`a dragon`, `an owl`."""
    return ("an " if noun[0] in "aeiou" and not noun.startswith(("uni", "eu")) else "a ") + noun


@cache
def _words_of_texts() -> list[str]:
    """The words of the topics' texts, in their order."""
    texts = sorted((Path(__file__).parent / "texts").glob("topics_*.txt"))
    return [word for path in texts for word in re.findall("[a-z]{4,}", path.read_text(encoding="utf-8").lower())]


@cache
def pieces() -> list[str]:
    """Two to five letters from anywhere within the words of the topics' texts, in their order."""
    found = dict.fromkeys(
        word[start : start + size]
        for word in _words_of_texts()
        for size in range(2, 6)
        for start in range(len(word) - size + 1)
    )
    return [piece for piece in found if piece not in _NEW]


def patched(rng: Random) -> str:
    """An invented word, from pieces of other words: any two tokens may follow each other in it."""
    while True:
        word = "".join(rng.choice(pieces()) for _ in range(rng.choice((1, 2, 2, 3))))
        if word not in _NEW:
            return word


@cache
def _told() -> list[str]:
    """The words of stories and poems, with the names of things."""
    texts = [Path(__file__).parent / "texts" / name for name in ("stories.txt", "poems.txt")]
    told = " ".join((*(path.read_text(encoding="utf-8").lower() for path in texts), *PLACES, *MATTERS))
    return list(dict.fromkeys((*re.findall("[a-z]{3,}", told), *ANIMALS, *PEOPLE, *THINGS, *ADJECTIVES)))


def begun(rng: Random) -> str:
    """A word that begins like one of the stories' words, and goes on like none: `candlerou`, `meaeep`."""
    while True:
        told = rng.choice(_told())
        kept = len(told) if rng.random() < 0.5 else rng.randint(2, len(told))
        word = told[:kept] + rng.choice(pieces())
        if word not in _NEW:
            return word


@cache
def _whole() -> list[str]:
    new = _NEW.union(*(matter.split() for matter in NEW_MATTERS))
    return [word for word in dict.fromkeys((*_words_of_texts(), *_told())) if word not in new]


def unexpected(rng: Random) -> str:
    """A patched word, a begun one, or one of the texts that is no name of anything: any token may begin it."""
    dice = rng.random()
    if dice < 0.25:
        return patched(rng)
    return begun(rng) if dice < 0.75 else rng.choice(_whole())


def matter(rng: Random) -> str:
    """What a story may be about without being its hero."""
    return rng.choice(MATTERS)


def unexpected_matter(rng: Random) -> str:
    """Half of them are invented words."""
    return unexpected(rng) if rng.random() < 0.5 else matter(rng)
