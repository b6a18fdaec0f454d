"""StrictJson: lm-format-enforcer's parser of JSON, held to what JSON is."""

from dataclasses import dataclass, replace

from lmformatenforcer import CharacterLevelParser

_DIGITS = set("0123456789")
_BLANKS = set(" \t\n\r")


@dataclass(frozen=True, slots=True)
class StrictJson:
    """A CharacterParser.

    The library takes ``1.e5`` and ``-0.5`` for integers, lets objects end with a comma and line ends stand inside strings, counts an escaped
    character outside the first plane twice, blanks at the beginning of a string not at all, and blanks inside strings
    among those that it limits. What it allows is cut down by the last characters alone, which is enough: no number has
    an exponent or begins with -0, no string a control character or \\u.
    """

    parser: CharacterLevelParser
    most_blanks: int
    """Between two JSON tokens."""
    last: str = ""
    """The last character that is no blank between tokens."""
    in_string: bool = False
    escaped: bool = False
    blanks: int = 0
    """At the beginning of the string that this place is in, or since the last JSON token."""

    def allowed(self) -> set[str]:
        characters = set(self.parser.get_allowed_characters())
        if self.escaped:
            return characters - {"u"}
        if self.in_string:
            if self.most_free_characters() == 0:
                return {'"'}
            return {character for character in characters if character >= " "}
        if self.blanks >= self.most_blanks:
            characters -= _BLANKS
        if self.last == ",":
            characters -= {"}", "]"}
        if self.last == "-":
            return characters & (_DIGITS - {"0"})
        if self.last == ".":
            return characters & _DIGITS
        return characters - {"e", "E"} if self.last in _DIGITS else characters

    def followed_by(self, character: str) -> "StrictJson":
        parser = self.parser.add_character(character)
        in_string = self.in_string != (character == '"' and not self.escaped)
        if not self.in_string and character in _BLANKS:
            return replace(self, parser=parser, blanks=self.blanks + 1)
        if not self.in_string:
            blanks = 0
        else:
            # The library goes on as if a blank at the beginning had not been there.
            blanks = (self.blanks + (character == " " and _free_size(parser) == 0)) if in_string else 0
        escaped = self.in_string and character == "\\" and not self.escaped
        return replace(self, parser=parser, last=character, in_string=in_string, escaped=escaped, blanks=blanks)

    def can_end(self) -> bool:
        return self.parser.can_end() and not self.in_string and self.last not in ("-", ".")

    def most_free_characters(self) -> int | None:
        key = self.parser.shortcut_key()
        if not self.in_string or self.escaped or not isinstance(key, tuple) or key[0] != "json_freetext":
            return None
        _, size, _, most = key
        return max(int(most - size) - self.blanks, 0)

    def key(self) -> None:
        """No two places are known to be the same."""
        return None


def _free_size(parser: CharacterLevelParser) -> int | None:
    """Of the string that may hold anything, as far as it has come; None elsewhere."""
    key = parser.shortcut_key()
    return int(key[1]) if isinstance(key, tuple) and key[0] == "json_freetext" else None
