"""The character tokenizer: one id for each symbol, in the order the config lists them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from carousel.model.errors import ConfigError, TokenizerError


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
        symbols = []
        for i in ids:
            if not 0 <= i < len(self.symbols):
                raise TokenizerError(f"ids must be between 0 and {len(self) - 1}, got {i}")
            symbols.append(self.symbols[i])
        return "".join(symbols)
