"""Strings that end a text, wherever the pieces are cut."""

from hypothesis import given
from hypothesis import strategies as st

from keras_gpt.generation.stopping import StopStrings


def run(pieces, strings):
    stop = StopStrings(strings)
    shown = [stop.push(piece) for piece in pieces]
    return shown, "".join(shown) + stop.finish(), stop.found


@given(
    st.lists(st.text("ab", max_size=3), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4))
)
def test_the_text_ends_before_the_first_that_is_complete(pieces, strings):
    _, text, found = run(pieces, strings)
    # Piece by piece: what stood there when the first of them was complete.
    whole = ""
    for piece in pieces:
        whole += piece
        places = [whole.find(string) for string in strings if string in whole]
        if places:
            assert found
            assert text == whole[: min(places)]
            return
    assert not found
    assert text == whole


def test_only_what_may_become_a_stop_string_waits():
    shown, text, found = run(["one#", "#", "two##", "#rest"], ["###"])
    assert shown == ["one", "", "##two", ""]
    assert text == "one##two"
    assert found
    shown, text, found = run(["one#"], ["###"])
    assert (shown, text, found) == (["one"], "one#", False)
    assert run(["a", "b"], [])[0] == ["a", "b"]
