"""What is compiled for a model is made once, and again when its weights are others."""

import time
from concurrent.futures import ThreadPoolExecutor

from gpt_cases import make_gpt

from keras_gpt.generation.compiled import kept_with
from keras_gpt.generation.steps import decode_steps


def test_threads_that_ask_at_the_same_time_get_the_same():
    gpt = make_gpt()

    def make():
        time.sleep(0.3)  # so long that a thread that does not wait makes one of its own
        return object()

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(kept_with, gpt, "_made", make) for _ in range(4)]
        made = {id(each.result()) for each in asked}
    assert len(made) == 1


def test_other_weights_are_compiled_again():
    gpt = make_gpt()
    floats = decode_steps(gpt)
    assert decode_steps(gpt) is floats
    gpt.quantize("int8")
    assert decode_steps(gpt) is not floats
