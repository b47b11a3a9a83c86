"""Tokenizers: text to ids and back; each is a frozen value in the model's config."""

import codecs
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from carousel.model.errors import ConfigError, TokenizerError

BYTES = 256


class Decoder(Protocol):
    """Ids to text, one at a time: what is not yet a whole character waits for the next id."""

    def feed(self, token: int) -> str:
        """The text that is complete with this id; raises TokenizerError for an id out of range."""
        ...

    def rest(self) -> str:
        """What still waited: U+FFFD for a character that never became whole, or nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Characters:
    """`symbols[i]` is the character of id i; every character stands once."""

    symbols: str
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.symbols, str) or not self.symbols:
            raise ConfigError(f"symbols must be a string of characters, got {self.symbols!r:.80}")
        ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        if len(ids) != len(self.symbols):
            twice = next(s for i, s in enumerate(self.symbols) if ids[s] != i)
            raise ConfigError(f"symbols must not repeat, got {twice!r} more than once")
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """The ids of the characters; raises TokenizerError at the first unknown one."""
        try:
            return [self._ids[character] for character in text]
        except KeyError as unknown:
            character = unknown.args[0]
            raise TokenizerError(
                f"character {character!r} at position {text.index(character)} is unknown: "
                f"the model knows {self.symbols!r}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; raises TokenizerError for an id out of range."""
        return "".join(self.symbols[_checked(i, len(self))] for i in ids)

    def decoder(self) -> Decoder:
        """Decodes one id at a time."""
        return _Whole(self)


@dataclass(frozen=True, slots=True)
class Bytes:
    """Id i is the byte i of UTF-8: any text can be written, a character may take several ids."""

    def __len__(self) -> int:
        return BYTES

    def encode(self, text: str) -> list[int]:
        """The bytes of the text; raises TokenizerError for a lone surrogate."""
        return list(_utf8(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, U+FFFD where they are not UTF-8; TokenizerError: out of range."""
        return bytes(_checked(i, BYTES) for i in ids).decode("utf-8", "replace")

    def decoder(self) -> Decoder:
        """Decodes one id at a time."""
        return _Utf8([bytes([i]) for i in range(BYTES)])


@dataclass(frozen=True, slots=True)
class Subwords:
    """Byte-pair encoding over bytes (Sennrich et al. 2016; bytes as in GPT-2).

    `merges[i]` is two tokens with a space between, in GPT-2's spelling of bytes. Ids below 256 are
    bytes, then comes what each merge makes, once. No token goes beyond a line's end, so that a text
    can be encoded line by line.
    """

    merges: tuple[str, ...]
    _tokens: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    _encoder: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.merges, tuple) or not all(isinstance(m, str) for m in self.merges):
            raise ConfigError(f"merges must be a list of strings, got {self.merges!r:.80}")
        ids = {character: i for i, character in enumerate(BYTE_NAMES)}
        pairs = []
        for merge in self.merges:
            pair = tuple(merge.split(" "))
            if len(pair) != 2 or not all(part in ids for part in pair):
                raise ConfigError(
                    f"a merge must be two tokens that stand before it, got {merge!r:.80}"
                )
            pairs.append(pair)
            ids.setdefault(pair[0] + pair[1], len(ids))
        numbers = {character: i for i, character in enumerate(BYTE_NAMES)}
        tokens = tuple(bytes(numbers[c] for c in token) for token in ids)
        object.__setattr__(self, "_tokens", tokens)
        object.__setattr__(self, "_encoder", _byte_pairs(ids, pairs))

    def __len__(self) -> int:
        return len(self._tokens)

    def encode(self, text: str) -> list[int]:
        """The ids of the text; raises TokenizerError for a lone surrogate."""
        _utf8(text)
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, U+FFFD where they are not UTF-8; TokenizerError: out of range."""
        tokens = (self._tokens[_checked(i, len(self))] for i in ids)
        return b"".join(tokens).decode("utf-8", "replace")

    def decoder(self) -> Decoder:
        """Decodes one id at a time."""
        return _Utf8(self._tokens)

    @classmethod
    def learn(cls, texts: Iterable[str], vocabulary: int) -> "Subwords":
        """At most `vocabulary` tokens, the merges that shorten the texts most."""
        from tokenizers.trainers import BpeTrainer

        trainer = BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=list(BYTE_NAMES),
            show_progress=False,
        )
        learner = _byte_pairs(None, None)
        learner.train_from_iterator(texts, trainer)
        found = json.loads(learner.to_str())["model"]["merges"]
        return cls(tuple(m if isinstance(m, str) else " ".join(m) for m in found))


@dataclass(frozen=True, slots=True)
class Words:
    """What stands between blanks: `words[i]` has id i + 1, and id 0 is every other word."""

    words: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fine = isinstance(self.words, tuple) and all(isinstance(w, str) for w in self.words)
        if not fine or not all(word.split() == [word] for word in self.words):
            raise ConfigError(f"words must be strings without blanks, got {self.words!r:.80}")
        ids = {word: i for i, word in enumerate(self.words, 1)}
        if len(ids) != len(self.words):
            raise ConfigError(f"words must not repeat, got {self.words!r:.80}")
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        return len(self.words) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of the words, 0 for unknown ones."""
        return [self._ids.get(word, 0) for word in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        """The words with blanks between, U+FFFD for id 0; TokenizerError: out of range."""
        return " ".join(("\ufffd", *self.words)[_checked(i, len(self))] for i in ids)

    def decoder(self) -> Decoder:
        """Decodes one id at a time."""
        return _Whole(self)


Tokenizer = Characters | Bytes | Subwords | Words
# The name of each in a config's JSON.
TOKENIZERS: dict[str, type[Tokenizer]] = {
    "characters": Characters,
    "bytes": Bytes,
    "subwords": Subwords,
    "words": Words,
}


class _Whole:
    """Every id is whole characters by itself; words have a blank between."""

    def __init__(self, tokenizer: "Characters | Words") -> None:
        self._tokenizer = tokenizer
        self._between = ""

    def feed(self, token: int) -> str:
        text = self._between + self._tokenizer.decode([token])
        self._between = " " if isinstance(self._tokenizer, Words) else ""
        return text

    def rest(self) -> str:
        return ""


class _Utf8:
    """Each id is bytes of UTF-8."""

    def __init__(self, tokens: "tuple[bytes, ...] | list[bytes]") -> None:
        self._tokens = tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        return self._decoder.decode(self._tokens[_checked(token, len(self._tokens))])

    def rest(self) -> str:
        return self._decoder.decode(b"", final=True)


def _byte_names() -> str:
    """GPT-2's spelling of bytes: character i stands for byte i, and none of them is blank."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [i for i in range(BYTES) if i not in printable]
    return "".join(chr(i) if i in printable else chr(256 + others.index(i)) for i in range(BYTES))


BYTE_NAMES = _byte_names()


def _byte_pairs(ids: dict[str, int] | None, merges: Any) -> Any:
    # Only the models that need it pay for the import.
    from tokenizers import Tokenizer as Pipeline
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    pipeline = Pipeline(BPE(ids, merges))
    pipeline.pre_tokenizer = Sequence(
        [Split("\n", "merged_with_previous"), ByteLevel(add_prefix_space=False)]
    )
    return pipeline


def _checked(i: int, size: int) -> int:
    if not 0 <= i < size:
        raise TokenizerError(f"ids must be between 0 and {size - 1}, got {i}")
    return i


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"character {text[error.start]!r} at position {error.start} is half of a pair: "
            "text must be valid Unicode"
        ) from None
