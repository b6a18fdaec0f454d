"""GrammarSpec: the form that an answer must have."""

import enum
import hashlib

import msgspec


class GrammarKind(enum.StrEnum):
    """How ``GrammarSpec.source`` is written."""

    JSON_SCHEMA = "json_schema"
    """A JSON schema as JSON text."""
    REGEX = "regex"
    """A regular expression for the whole answer."""
    CHOICE = "choice"
    """A JSON list of strings, of which the answer is one."""
    EBNF = "ebnf"
    """GBNF, with a rule ``root``."""
    LARK = "lark"
    """Lark, with a rule ``start``."""
    STRUCTURAL_TAG = "structural_tag"
    """A structural tag as JSON text, in the form with ``format``."""


class GrammarBackend(enum.StrEnum):
    """Which library turns the grammar into token masks."""

    AUTO = "auto"
    """xgrammar; guidance where xgrammar cannot."""
    XGRAMMAR = "xgrammar"
    GUIDANCE = "guidance"
    OUTLINES = "outlines"
    """Only where somebody asks for it, as the next."""
    LM_FORMAT_ENFORCER = "lm-format-enforcer"


class GrammarSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Checked by the API node before it gets here; equal specs are compiled once per worker."""

    kind: GrammarKind
    source: str
    backend: GrammarBackend = GrammarBackend.AUTO
    whitespace: str | None = None
    """Regular expression for the blanks between JSON tokens; None: a limited number of them."""
    compact: bool = False
    """No blanks between JSON tokens."""
    after: str | None = None
    """The grammar begins after the token that completes this text, such as ``</think>``; None: at once."""
    also_after: tuple[str, ...] = ()
    """Other spellings of ``after``."""
    unless_begun: tuple[str, ...] = ()
    """The grammar waits for ``after`` only when the answer begins with one of these texts, such as ``<think>``, after
    white space at most; none: it waits in any case."""
    asked_as: str = ""
    """The request's parameter, for messages; "" for one that does not matter."""

    @property
    def digest(self) -> bytes:
        """16 bytes, the same for equal grammars, whatever asked for them: what caches go by, since sources can be long."""
        same = msgspec.structs.replace(self, asked_as="")
        return hashlib.blake2b(msgspec.msgpack.encode(same), digest_size=16).digest()
