"""Text from token ids that arrive one at a time."""

import codecs
import copy
from collections.abc import Callable


class StreamDecoder:
    """Turns token ids into text as they arrive and holds back unfinished characters.

    A character of more than one byte may be spread over several tokens. Its bytes are kept until
    it is complete, or until it is certain that it never will be; then it becomes U+FFFD, exactly
    as `Tokenizer.decode` makes it. All pieces joined are what `decode` gives for all ids.

    Args:
        token_bytes: gives the bytes of one token id, and raises ValueError for an unknown id.
        trims_end: whether a space that ends the last token is no part of the text. A space is
            then held back until the next token comes.

    Example:
        >>> stream = tokenizer.stream_decoder()
        >>> for token_id in ids:
        ...     print(stream.push(token_id), end="")
        >>> print(stream.finish())
    """

    def __init__(self, token_bytes: Callable[[int], bytes], trims_end: bool = False) -> None:
        self._token_bytes = token_bytes
        self._trims_end = trims_end
        self._held = ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def copy(self) -> "StreamDecoder":
        """Give another one that holds the same and goes on on its own."""
        twin = copy.copy(self)
        twin._utf8 = copy.copy(self._utf8)
        return twin

    def push(self, token_id: int) -> str:
        """Take one token id.

        Args:
            token_id: an id of the vocabulary.

        Returns:
            The text that is complete now and was not given before; often '' inside a character.

        Raises:
            ValueError: the id is not in the vocabulary. The decoder is then as it was.
        """
        text = self._utf8.decode(self._token_bytes(token_id))
        if not self._trims_end:
            return text
        text, self._held = self._held + text.removesuffix(" "), " " * text.endswith(" ")
        return text

    def finish(self) -> str:
        """End the stream; the decoder may then be used for another one.

        Returns:
            U+FFFD if the ids ended inside a character, and '' otherwise.
        """
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._held = ""
        return rest
