"""Where an answer ends: strings that stop it, also where they cross the borders of tokens."""

from collections.abc import Sequence


class StopStrings:
    r"""Watches a text that comes in pieces for strings that end it.

    Text that may be the beginning of such a string is held back until the next pieces tell.

    Args:
        strings: each ends the text, and is left out of it with all that follows.

    Attributes:
        found: whether one was found.

    Example:
        >>> stop = StopStrings(["\n\n"])
        >>> stop.push("one\n"), stop.push("\ntwo"), stop.found
        ('one', '', True)
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Take the next piece, and give what is sure to belong to the text."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for place in map(text.find, self._strings) if place >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Give what was held back: no more text comes."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, string: str) -> int:
    """Count the most characters at the end of a text that begin a string."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
