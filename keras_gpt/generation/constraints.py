"""Answers that follow a form: which tokens may come next, by the library llguidance."""

import copy
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

# JSON on one line, as `json.dumps` writes it: where any blank space is allowed, a model may write
# nothing else for ever.
_JSON_OPTIONS = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


@dataclasses.dataclass(frozen=True)
class Constraint:
    r"""What the whole text of an answer must be; made by `regex`, `json_schema`, `choice`, `grammar`.

    Args:
        definition: the grammar in llguidance's JSON.

    Raises:
        ImportError: llguidance is not installed.

    Example:
        >>> date = Constraint.regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
        >>> gpt.generate("Today is ", constraint=date, echo=False)

    Source: https://github.com/guidance-ai/llguidance.
    """

    definition: str
    # By tokenizer, what rows start from: a row that waits long finds it where others pushed it out
    # of the cache below.
    _starts: dict[Any, Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def regex(cls, pattern: str) -> "Constraint":
        r"""Take a regular expression, which the whole text matches.

        Args:
            pattern: as Rust's `regex` writes them: without look-around, back references and
                anchors; `.` is no end of line.

        Raises:
            ValueError: it is no such expression; the message has the library's reason.
        """
        _check_text("pattern", pattern)
        return cls(_checked("pattern", pattern, _library().LLMatcher.grammar_from_regex(pattern)))

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> "Constraint":
        """Take a JSON schema, which the text follows, on one line as `json.dumps` writes it.

        Args:
            schema: the schema, or its JSON. Its "x-guidance" may set llguidance's options, such as
                {"whitespace_flexible": true}.

        Raises:
            ValueError: it is no schema, or has keywords that llguidance does not know how to follow.
        """
        try:
            read = json.loads(schema) if isinstance(schema, str) else schema
            text = json.dumps(read)
        except (TypeError, ValueError) as error:
            raise _bad("schema", schema, error) from error
        if not isinstance(read, Mapping):
            raise ValueError(f"schema must be a JSON object. Received: schema={schema!r:.200}")
        try:
            grammar = _library().LLMatcher.grammar_from_json_schema(text, defaults=_JSON_OPTIONS)
        except ValueError as error:
            raise _bad("schema", schema, error) from error
        return cls(_checked("schema", schema, grammar))

    @classmethod
    def choice(cls, choices: Sequence[str]) -> "Constraint":
        """Take a list of texts, one of which the answer is.

        Args:
            choices: at least one string, none empty.

        Raises:
            ValueError: there is none, or something else is among them.
        """
        if (
            isinstance(choices, str)
            or not len(choices)
            or not all(isinstance(each, str) and each for each in choices)
        ):
            raise ValueError(
                "choices must be a list of strings that are not empty. Received: "
                f"choices={choices!r:.200}"
            )
        for each in choices:
            _check_text("choices", each)
        # Lark writes strings as JSON does.
        lark = "start: " + " | ".join(json.dumps(each) for each in dict.fromkeys(choices))
        return cls(_checked("choices", choices, _library().LLMatcher.grammar_from_lark(lark)))

    @classmethod
    def grammar(cls, text: str) -> "Constraint":
        """Take a context-free grammar, whose rule `start` the answer follows.

        Args:
            text: the grammar, as llguidance takes Lark's syntax.

        Raises:
            ValueError: it is no such grammar; the message has the library's reason.
        """
        _check_text("text", text)
        return cls(_checked("text", text, _library().LLMatcher.grammar_from_lark(text)))


class ConstraintState:
    """What one row has written of a constraint, and what may come next.

    Args:
        matcher: llguidance's, of this row alone.
        allowed: (vocab_size,) bool, what `matcher` allows now, stop tokens aside.
        stop_token_ids: the tokens that end the row; each is allowed exactly where the text may end.

    Attributes:
        ended: "stop" once the text is whole: a stop token came, or nothing may follow. "constraint"
            where the constraint wants bytes that the tokenizer has no token for, or has grown too
            complex for the library. None before.
    """

    def __init__(
        self, matcher: Any, allowed: np.ndarray, stop_token_ids: Sequence[int] = ()
    ) -> None:
        self.ended: str | None = None
        self._matcher = matcher
        self._stops = [token for token in stop_token_ids if token < len(allowed)]
        self._allowed = allowed
        self._look()

    def allowed(self) -> np.ndarray:
        """Give (vocab_size,) bool: the tokens that may come next."""
        return self._allowed

    def accept(self, token: int) -> None:
        """Go on behind a token.

        Raises:
            ValueError: it is not allowed here.
        """
        if not self._allowed[token]:
            raise ValueError(f"token must be one that is allowed here. Received: token={token}")
        if token in self._stops:
            self.ended = "stop"
            self._allowed = np.zeros_like(self._allowed)
            return
        self._matcher.consume_token(token)
        self._allowed = _allowed_by(self._matcher, len(self._allowed))
        self._look()

    def copy(self) -> "ConstraintState":
        """Give a state of its own for a row that goes on from here too."""
        other = copy.copy(self)
        other._matcher = self._matcher.deep_copy()
        return other

    def _look(self) -> None:
        may_end = self._matcher.is_accepting()
        self._allowed[self._stops] = False
        if not self._allowed.any():
            self.ended = "stop" if may_end else "constraint"
        self._allowed[self._stops] = may_end


class _Words:
    """A tokenizer as llguidance wants to see one: the bytes of every token, and how text is cut.

    A token of llguidance's own behind the last stands for the end: a row may have several stop
    tokens, or none. Special tokens have no bytes, so that none is ever allowed.
    """

    bos_token_id = None

    def __init__(self, tokenizer: "Tokenizer") -> None:
        size = tokenizer.vocab_size
        special = set(tokenizer.special_tokens.values())
        pieces = [b"" if i in special else tokenizer.token_bytes(i) for i in range(size)]
        self.eos_token_id = size
        self.special_token_ids = [size]
        self.tokens = [*pieces, b"<end>"]
        self._encode = tokenizer.encode
        self._ids = {piece: i for i, piece in reversed(list(enumerate(pieces))) if piece}

    def __call__(self, text: str) -> list[int]:
        """Cut a text that the constraint forces, as the model has seen such texts cut."""
        wanted = text.encode("utf-8")
        try:
            ids = self._encode(text)
            if b"".join(self.tokens[i] for i in ids) == wanted:
                return ids
        except ValueError:  # a character that a character tokenizer does not know
            pass
        # `encode` changes the text (NFC) or leaves out what has no token: cut it into characters,
        # and those that are no token into bytes.
        found = []
        for character in text:
            piece = character.encode("utf-8")
            parts = [piece] if piece in self._ids else [bytes([byte]) for byte in piece]
            found += [self._ids[part] for part in parts if part in self._ids]
        return found


def start_constraint(
    tokenizer: "Tokenizer", constraint: Constraint, stop_token_ids: Sequence[int]
) -> ConstraintState:
    """Give the state of a row that has written nothing yet.

    Args:
        tokenizer: whose tokens the row is made of.
        constraint: what it must be; compiled on first use.
        stop_token_ids: the tokens that end it.

    Raises:
        ImportError: llguidance is not installed.
        ValueError: the constraint allows no text that this tokenizer can write.
    """
    if tokenizer.level == "gpt1":
        raise ValueError(
            "constraint needs a tokenizer whose tokens stand for the same bytes everywhere; the "
            "space at the end of GPT-1's words comes and goes. Received: tokenizer.level='gpt1'"
        )
    starts = constraint._starts
    if tokenizer not in starts:
        starts[tokenizer] = _compiled(tokenizer, constraint)
    matcher, allowed = starts[tokenizer]
    return ConstraintState(matcher.deep_copy(), allowed.copy(), stop_token_ids)


@functools.lru_cache(maxsize=32)
def _compiled(tokenizer: "Tokenizer", constraint: Constraint) -> tuple[Any, np.ndarray]:
    """Give a matcher that every row starts with a copy of, and what it allows first."""
    # log_level=0: errors are read from the matcher, and not written to stderr too.
    matcher = _library().LLMatcher(_vocabulary(tokenizer), constraint.definition, log_level=0)
    if reason := matcher.get_error():
        raise _bad("constraint", constraint.definition, reason)
    allowed = _allowed_by(matcher, tokenizer.vocab_size)
    if not allowed.any():
        raise ValueError(
            "constraint must allow a text that is not empty and that the tokenizer has tokens for. "
            f"Received: constraint={constraint.definition!r:.200}"
        )
    return matcher, allowed


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: "Tokenizer") -> Any:
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Words(tokenizer)))


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ImportError(
            "a constraint needs llguidance: pip install 'keras-gpt[constrain]'. Received: no "
            "module llguidance"
        ) from error
    return llguidance


def _allowed_by(matcher: Any, vocab_size: int) -> np.ndarray:
    bits = np.frombuffer(matcher.compute_bitmask(), "uint8")
    # (vocab_size,): one bit a token, padded; llguidance's own end comes behind the last token.
    return np.unpackbits(bits, count=vocab_size, bitorder="little").view("bool")


def _checked(name: str, value: object, definition: str) -> str:
    is_wrong, messages = _library().LLMatcher.validate_grammar_with_warnings(definition)
    if is_wrong:
        raise _bad(name, value, messages[0])
    return definition


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string. Received: {name}={value!r:.200}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _bad(name, value, error) from error


def _bad(name: str, value: object, reason: object) -> ValueError:
    return ValueError(
        f"{name} must be what llguidance can follow: {str(reason).strip()}. Received: "
        f"{name}={value!r:.200}"
    )
