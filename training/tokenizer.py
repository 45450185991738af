"""The bundled tokenizer: a byte-level BPE of a few thousand entries, learned from the corpus.

Digits stay single tokens, so arithmetic is a procedure over digits. Characters that take three or four bytes in UTF-8
(Chinese, Japanese, emoji) are left out of the learning, so each of them spans several tokens, and shows how a
stream handles half a character.

    python -m training.tokenizer         # reads training/build/corpus.jsonl, writes into bundled_model/
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training import corpus
from training.settings import BUILD, FULL, MODEL, TOY, Settings

PAD, BOS, EOS, SYSTEM, USER, ASSISTANT = SPECIAL = (
    "<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>"
)  # fmt: skip

# Words with their leading space, single digits with theirs, runs of marks, white space.
PIECES = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- if tools -%}
{{- '<|system|>You can call these tools:\\n' -}}
{%- for tool in tools -%}{{- tool | tojson -}}{{- '\\n' -}}{%- endfor -%}
{{- 'To call one, answer <tool_call>\\n{"name": its name, "arguments": an object}\\n</tool_call>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role in ('system', 'developer') -%}
{{- '<|system|>' + text(message.content) -}}
{%- elif message.role == 'user' -%}
{{- '<|user|>' + text(message.content) -}}
{%- elif message.role == 'assistant' -%}
{{- '<|assistant|>' + text(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": ' + call.function.name | tojson + ', "arguments": ' -}}
{{- call.function.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- eos_token -}}
{%- elif message.role == 'tool' -%}
{{- '<|user|><tool_response>\\n' + text(message.content) + '\\n</tool_response>' -}}
{%- else -%}
{{- raise_exception('Expected the role system, user, assistant or tool, but got ' + message.role) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def learnable(text: str) -> str:
    """The text without the characters that must stay bytes."""
    return "".join(c for c in text if ord(c) < 0x800)


def texts(settings: Settings, build: Path) -> Iterator[str]:
    """Questions and answers of the corpus's first part, but for documents that begin with made-up words to repeat."""
    for document in islice(corpus.read(build), settings.parts[0].documents):
        if document["kind"] == "repeat":
            continue
        for question, answer in cast(list[list[str]], document["turns"]):
            yield learnable(question)
            yield learnable(answer)


def train(settings: Settings, texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Learn the merges and dress them as a transformers tokenizer."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
            ),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=settings.context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.tokenizer", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder with the corpus")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder for the tokenizer")
    options = parser.parse_args()
    settings = TOY if options.toy else FULL
    tokenizer = train(settings, texts(settings, options.build))
    tokenizer.save_pretrained(options.model)
    print(f"{len(tokenizer)} entries in {options.model}")


if __name__ == "__main__":
    main()
