"""The bundled model's training: a reproducible corpus without the examination's questions, and a program that runs.

The toy-sized run trains from nothing in well under a minute; nothing here reads or writes `bundled_model/` but the
tests that say so.
"""

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from training import arithmetic, corpus, evaluate, phrasings, poems, recitals, stories, tokenizer, topics, train, words
from training.evaluate import Examined, most_repeated, names_subject, topic_of
from training.noise import noisy
from training.rows import Encoded, batch, encode, plan
from training.settings import FULL, MODEL, TOY
from training.split import Case, Example, key, share
from training.tokenizer import ASSISTANT

HALF_PRECISION = {"F16", "BF16"}
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy corpus and tokenizer."""
    folder = tmp_path_factory.mktemp("toy")
    corpus.write(TOY, folder)
    tokenizer.train(TOY, tokenizer.texts(TOY, folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def full_corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The corpus of the bundled model, made again, and its SHA-256."""
    build = tmp_path_factory.mktemp("full")
    return build, corpus.write(FULL, build)


@pytest.mark.timeout(300)  # 850,000 documents
def test_remaking_the_corpus_gives_the_hash_that_is_written_down(full_corpus: tuple[Path, str]) -> None:
    assert full_corpus[1] == corpus.CORPUS_SHA256


@pytest.mark.timeout(300)
def test_no_held_out_question_is_in_the_training_text(full_corpus: tuple[Path, str]) -> None:
    examined = {key(case.question) for case in corpus.cases()}
    taught = {
        key(question)
        for document in corpus.read(full_corpus[0])
        for question, _ in cast(list[list[str]], document["turns"])
    }
    assert len(examined) > 3000
    assert not examined & taught


@pytest.mark.timeout(300)
def test_no_held_out_subject_is_in_a_taught_question(full_corpus: tuple[Path, str]) -> None:
    held_out = {*words.EXAMINED_ANIMALS, *words.EXAMINED_PEOPLE, *words.EXAMINED_THINGS}
    matters = [f" about {key(matter)}" for matter in words.NEW_MATTERS]
    for document in corpus.read(full_corpus[0]):
        if document["kind"] in ("story", "poem"):
            question = key(cast(list[list[str]], document["turns"])[0][0])
            assert not held_out & set(question.split()), question
            assert not question.endswith(tuple(matters)), question


@pytest.mark.parametrize("draw", [arithmetic.draw, arithmetic.draw_opposites])
def test_no_held_out_pair_of_numbers_is_taught_in_any_phrasing(draw: Callable[[Random], Example]) -> None:
    rng, asserted = Random(1), 0
    for _ in range(15_000):
        example = draw(rng)
        numbers = [int(n) for n in re.findall(r"\d+", example.question)]
        if example.kind != "arithmetic" or len(numbers) != 2 or 0 in numbers:
            continue
        x, y = numbers
        result = int(example.answer.split()[-1].rstrip("."))
        if result == x + y:
            asserted += 1
            assert not arithmetic.pair_held_out("sum", x, y), example
        elif abs(result) == abs(x - y):
            asserted += 1
            assert not arithmetic.pair_held_out("difference", *((x, y) if result == x - y else (y, x))), example
    assert asserted > 5_000


def test_every_topic_is_asked_in_many_ways_and_one_of_them_is_held_out() -> None:
    every = topics.topics()
    assert len(every) >= 110
    assert len({topic.name for topic in every}) == len(every)
    for topic in every:
        assert topic.answers
        assert len(topics.kept(topic)) + len(topics.general(topic, examined=False)) >= 5
        assert topics.left_out(topic) == [min(topic.wordings, key=share)]


def test_every_topic_is_asked_in_many_further_wordings() -> None:
    further = topics.further_wordings()
    assert further.keys() == {topic.name for topic in topics.topics()}
    assert min(map(len, further.values())) >= 50


@pytest.mark.parametrize("operation", arithmetic.OPERATIONS)
def test_no_further_phrasing_of_a_sum_holds_an_examined_one(operation: str) -> None:
    signs = arithmetic.SIGNS[operation]
    examined = {key(p.format(a="A", b="B", o=o)) for p in arithmetic.phrasings(operation, examined=True) for o in signs}
    opposed = [
        phrasing.replace("{w}", word)
        for words_of_both in arithmetic.OPPOSITES
        for phrasing in arithmetic.OPPOSED[words_of_both[0]]
        for word in words_of_both
    ]
    for phrasing in [*phrasings.further(operation), *opposed]:
        assert not any(f" {question} " in f" {key(phrasing.format(a='A', b='B'))} " for question in examined), phrasing


@pytest.mark.parametrize(("part", "many"), [("term", 0), ("terms", 1)])
def test_no_further_template_holds_an_examined_one(part: str, many: int) -> None:
    examined = {key(template.format(x="X")) for template in topics.templates(examined=True)[many]}
    for template in phrasings.further(part):
        assert not any(f" {question} " in f" {key(template.format(x='X'))} " for question in examined), template


def test_no_question_belongs_to_two_topics() -> None:
    owners: dict[str, str] = {}
    for topic in topics.topics():
        for question in (
            *topics.kept(topic),
            *topics.left_out(topic),
            *topics.general(topic, True),
            *topics.general(topic, False),
        ):
            assert owners.setdefault(key(question), topic.name) == topic.name, question


def test_an_unknown_line_in_a_topic_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "topics.txt").write_text("# a\nanswer: b\n")
    with pytest.raises(ValueError, match=r"topics\.txt:2: expected"):
        topics.parse(tmp_path / "topics.txt")


@pytest.mark.parametrize("text", ["What is 23 + 45?", "What is\n12?", "x 7, y 99"])
def test_noise_keeps_every_digit(text: str) -> None:
    rng = Random(3)
    for _ in range(300):
        made = noisy(rng, text)
        assert [c for c in made if c.isdigit()] == [c for c in text if c.isdigit()]


def test_numbers_are_written_in_words_and_answers_are_right() -> None:
    assert arithmetic.in_words(70) == "seventy"
    assert arithmetic.in_words(42) == "forty-two"
    assert arithmetic.answer("difference", 3, 8) == "The answer is -5."
    assert recitals.counting(5, 3, 1) == "5, 4, 3."


def test_stories_and_poems_name_their_subject_and_do_not_repeat_themselves() -> None:
    rng = Random(5)
    for _ in range(300):
        about = stories.subject(rng)
        story = stories.tell(rng, about)
        assert "{" not in story
        assert names_subject(story, about.matter or about.short)
        assert most_repeated(story) < 3
    assert "the sea" in poems.compose(rng, "the sea").lower()


def test_the_examination_knows_a_right_answer_a_topic_and_repetition() -> None:
    kv = next(topic for topic in topics.topics() if topic.name == "KV cache")
    assert topic_of(kv.answers[0]) == "KV cache"
    assert topic_of("Something else altogether.") == ""
    assert most_repeated("a b c d e f g h " * 3) == 3
    reply = evaluate.Reply("The answer is 4.", True)
    judge, bar = evaluate.EXAMINATION["sum, new pair"]
    assert judge(Case("sum, new pair", "2+2", "The answer is 4."), reply)
    assert bar == 0.98


@pytest.mark.parametrize("text", ["What is 2 + 2?", "emoji 🐉😀", "中文 こんにちは", "é ß ñ", "\n\t  x", "\x00\u202e"])
def test_every_text_round_trips(toy: Path, text: str) -> None:
    made = AutoTokenizer.from_pretrained(toy)
    assert made.decode(made(text, add_special_tokens=False)["input_ids"]) == text


def test_a_question_without_a_weight_leaves_the_answer_and_documents_stay_apart(toy: Path) -> None:
    made = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(toy))
    document: dict[str, object] = {"kind": "repeat", "system": "", "turns": [["2+2", "4"]], "chat": False}
    encoded = encode(TOY, made, [document, document])
    length, rows = plan(TOY, encoded, range(2), seed=1)[0]
    rows_made = batch(TOY, encoded, length, rows)
    size = len(encoded[0].ids)
    assert rows_made.ids.shape == (TOY.tokens_per_step // length, length)
    assert rows_made.segments[0, :size].tolist() == [1] * size
    assert rows_made.segments[0, size : 2 * size].tolist() == [2] * size
    assert rows_made.positions[0, size] == 0
    weighed = rows_made.weights[0, :size].nonzero()[0]
    answer = [*made("4", add_special_tokens=False)["input_ids"], made.eos_token_id]
    assert [encoded[0].ids[i + 1] for i in weighed] == answer


@pytest.mark.parametrize(
    ("kind", "weight"), [("topic", TOY.parts[0].question_weight), ("arithmetic", 0.0), ("repeat", 0.0)]
)
def test_a_question_is_learned_faintly_unless_nothing_foretells_it(toy: Path, kind: str, weight: float) -> None:
    made = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(toy))
    document: dict[str, object] = {"kind": kind, "system": "", "turns": [["Why send?", "So."]], "chat": True}
    (encoded,) = encode(TOY, made, [document])
    answer_from = encoded.ids.tolist().index(made.convert_tokens_to_ids(ASSISTANT)) + 1
    assert encoded.weights[0] == 0
    assert encoded.weights[1:answer_from] == pytest.approx(weight)
    assert all(encoded.weights[answer_from:] >= 1)


def test_in_the_last_part_only_answers_are_learned(toy: Path) -> None:
    made = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(toy))
    document: dict[str, object] = {"kind": "topic", "system": "", "turns": [["Why send?", "So."]], "chat": False}
    of_the_parts = encode(TOY, made, [document] * sum(part.documents for part in TOY.parts))
    answered = len(made("So.", add_special_tokens=False)["input_ids"]) + 1
    assert of_the_parts[0].weights[1] == pytest.approx(TOY.parts[0].question_weight)
    assert np.count_nonzero(of_the_parts[-1].weights) == answered


def test_every_document_of_a_part_is_read_once_in_rows_that_are_nearly_full() -> None:
    rng = Random(8)
    sizes = [rng.choice((14, 17, 20, 30, 30, 40, 40, 50, 60, 150, 300)) for _ in range(3000)]
    encoded = [Encoded(np.zeros(size, np.uint16), np.ones(size, np.float32)) for size in sizes]
    steps = plan(FULL, encoded, range(100, 3000), seed=1)
    assert sorted(number for _, rows in steps for row in rows for number in row) == list(range(100, 3000))
    assert all(sum(sizes[number] for number in row) <= length for length, rows in steps for row in rows)
    room = sum(length * len(rows) for length, rows in steps)
    assert sum(sizes[100:]) / room > 0.9


@pytest.mark.timeout(300)  # some seconds on two free cores
def test_a_toy_run_learns_stops_and_goes_on(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after its second saved state, the run goes on where it was, and ends with a checkpoint that loads."""
    saves = 0
    save = train._save

    def stop_after_two(path: Path, state: dict[str, object]) -> None:
        nonlocal saves
        save(path, state)
        saves += 1
        if saves == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "_save", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train.train(TOY, toy, toy)
    monkeypatch.setattr(train, "_save", save)
    at = torch.load(toy / "state.pt", weights_only=True)["step"]
    losses = train.train(TOY, toy, toy)
    assert at == 2 * TOY.save_every
    with pytest.raises(SystemExit, match="belongs to a training with other settings"):
        train.train(replace(TOY, seed=1), toy, toy)
    assert torch.load(toy / "state.pt", weights_only=True)["step"] == at + len(losses)
    assert losses[-1] < math.log(TOY.vocabulary) - 0.7  # it knows more than that every token is as likely
    model = AutoModelForCausalLM.from_pretrained(toy)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    reply = Examined(toy).replies([Examined(toy).prompt("What is 2 + 2?", chat=True)], 4, 0.0, "toy")
    assert len(reply) == 1


@pytest.fixture(scope="module")
def bundled() -> Examined:
    return Examined(MODEL, torch.float32)


def test_the_bundled_model_is_small_half_precision_and_quick_to_load() -> None:
    began = time.process_time()
    AutoModelForCausalLM.from_pretrained(MODEL)
    AutoTokenizer.from_pretrained(MODEL)
    assert time.process_time() - began < 2
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 16 * MEGABYTE
    with safe_open(MODEL / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} <= HALF_PRECISION  # noqa: SIM118


def test_the_bundled_model_has_a_context_and_grouped_queries() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["max_position_embeddings"] >= 1024
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    generation = json.loads((MODEL / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"]


@pytest.mark.parametrize("text", ["What is 2 + 2?", "🐉", "你好, こんにちは", "grüß dich"])
def test_the_bundled_tokenizer_round_trips_and_splits_wide_characters(bundled: Examined, text: str) -> None:
    ids = bundled.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert bundled.tokenizer.decode(ids) == text
    wide = [c for c in text if ord(c) >= 0x800]
    assert all(len(bundled.tokenizer(c, add_special_tokens=False)["input_ids"]) > 1 for c in wide)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_bundled_model_answers_the_example_and_shows_emoji(
    bundled: Examined, chat: bool, temperature: float
) -> None:
    torch.manual_seed(7)
    for question, answer in (evaluate.ARTICLE, evaluate.EMOJI):
        reply = bundled.replies([bundled.prompt(question, chat)] * 4, 60, temperature, question)
        assert [r.text for r in reply] == [answer] * 4
        assert all(r.ended for r in reply)


def test_the_bundled_model_answers_a_prompt_that_lacks_its_full_stop(bundled: Examined) -> None:
    replies = bundled.replies([bundled.prompt(text, chat=False) for text in evaluate.UNSTOPPED], 8, 0.0, "unstopped")
    assert all(reply.text[:1].isupper() for reply in replies), replies
