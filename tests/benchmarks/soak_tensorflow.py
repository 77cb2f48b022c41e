"""The soak's traffic for the TensorFlow-Serving-style server, whose versions come and go."""

import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.benchmarks.soak_process import ROOT, Server, started
from tests.benchmarks.soak_traffic import Kind

NAME = "tiny"
_CASES = 60
_WORDS = ["the", "cat", "sat", "on", "a", "mat.", "Once", "upon", "time", "7", "été", "中文"]
_SWAP_SECONDS = 300  # for a version to come (it compiles) or go
MALFORMED: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[" * 100_000,
    b'{"instances": []}',
    b'{"instances": [{"prompt": 5}]}',
    b'{"instances": [{"nothing": "a"}]}',
    b'{"instances": ["\xff"]}',
    b'{"instances": [{"prompt": "a", "max_new_tokens": 1e999}]}',
    b'{"instances": [{"prompt": "a", "max_new_tokens": "b"}]}',
    b'{"instances": ["a"], "signature_name": "nothing"}',
    b'{"instances": [{"prompt": "a"}, "b"]}',
]


class Case(NamedTuple):
    """A row of a request, and its text by each of the models that versions are made of."""

    row: dict[str, Any]
    texts: list[str]


def make_models() -> list[Any]:
    """Make the models that versions are made of: of one form, with other weights."""
    sys.path.insert(0, str(ROOT / "tests"))
    import keras
    from gpt_cases import make_gpt, small_tokenizer

    models = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        models.append(make_gpt(vocab_size=320, tokenizer=small_tokenizer(), context_length=64))
    return models


def make_cases(models: list[Any], count: int) -> list[Case]:
    """Draw requests, and have each model answer them alone."""
    rng = random.Random(0)
    cases = []
    for _ in range(count):
        prompt = " ".join(rng.choices(_WORDS, k=rng.randint(1, 6)))
        row = {"max_new_tokens": rng.randint(1, 16), "seed": rng.randrange(2**31)}
        row["temperature"] = rng.choice([0.0, 0.7, 1.3])
        texts = [model.generate(prompt, echo=False, **row) for model in models]
        cases.append(Case({"prompt": prompt, **row}, texts))
    return cases


class Versions:
    """The version folders of a model: turn by turn one comes, and the one before goes.

    Args:
        made: exported models, one after the other copied to the next version.
        folder: of the model.
    """

    def __init__(self, made: list[Path], folder: Path) -> None:
        self._made = made
        self._folder = folder
        self.latest = 0
        self._is_alone = False
        self.address = ""
        self.count = 0
        folder.mkdir()
        self._add()

    def maker(self, version: int) -> int:
        """Give which of the models a version is."""
        return version % len(self._made)

    def turn(self) -> str:
        """Let a version come, or the one before go, and wait until the server has followed."""
        self._is_alone = not self._is_alone
        if self._is_alone:
            self._add()
            return self._wait(self.latest, "AVAILABLE")
        shutil.move(self._folder / str(self.latest - 1), self._folder.parent.parent / "gone")
        shutil.rmtree(self._folder.parent.parent / "gone")
        self.count += 1
        return self._wait(self.latest - 1, None)

    def _add(self) -> None:
        """Let a version appear whole: servers look at any moment."""
        version = self.latest + 1
        aside = self._folder.parent.parent / "aside"
        shutil.copytree(self._made[self.maker(version)], aside)
        os.rename(aside, self._folder / str(version))
        self.latest = version

    def _wait(self, version: int, state: str | None) -> str:
        found: Any = None
        deadline = time.monotonic() + _SWAP_SECONDS
        while time.monotonic() < deadline:
            got = httpx.get(f"{self.address}/v1/models/{NAME}", timeout=60).json()
            states = {int(each["version"]): each["state"] for each in got["model_version_status"]}
            found = states.get(version)
            if found == state or (state is None and found == "END"):
                return ""
            time.sleep(0.2)
        return f"version {version} should have become {state}, and is {found}"


class Client:
    """Does what a client may do.

    Args:
        address: the server's.
        cases: requests with their answers.
        versions: tells what is served.
    """

    def __init__(self, address: str, cases: list[Case], versions: Versions) -> None:
        self._cases = cases
        self._versions = versions
        self._http = httpx.Client(base_url=address, timeout=60)

    def predict(self, rng: random.Random) -> str:
        """Ask the latest version; all rows must come from one and the same."""
        cases = rng.choices(self._cases, k=rng.randint(1, 4))
        body = {"instances": [case.row for case in cases]}
        got = self._http.post(f"/v1/models/{NAME}:predict", json=body)
        if got.status_code != 200:
            return f"{got.status_code}: {got.text}"
        texts = [row["completion"] for row in got.json()["predictions"]]
        wanted = [list(each) for each in zip(*(case.texts for case in cases), strict=True)]
        return "" if texts in wanted else f"{body} gave {texts}, none of {wanted}"

    def predict_version(self, rng: random.Random) -> str:
        """Ask one version by its number, which may have gone since."""
        case, version = rng.choice(self._cases), self._versions.latest
        url = f"/v1/models/{NAME}/versions/{version}:predict"
        got = self._http.post(url, json={"instances": [case.row]})
        if got.status_code == 404:  # so new that it is not loaded yet, or no longer the latest
            return ""
        if got.status_code != 200:
            return f"{got.status_code}: {got.text}"
        (row,) = got.json()["predictions"]
        wanted = case.texts[self._versions.maker(version)]
        return "" if row["completion"] == wanted else f"{case.row} gave {row}, not {wanted}"

    def leave_while_waiting(self, rng: random.Random) -> str:
        """Send a request and go soon."""
        with contextlib.suppress(httpx.TimeoutException):
            self._http.post(
                f"/v1/models/{NAME}:predict",
                json={"instances": [rng.choice(self._cases).row]},
                timeout=rng.choice([0.001, 0.01, 0.05]),
            )
        return ""

    def malformed(self, rng: random.Random) -> str:
        """Send what is no request of this API."""
        got = self._http.post(f"/v1/models/{NAME}:predict", content=rng.choice(MALFORMED))
        is_right = 400 <= got.status_code < 500 and got.json()["error"]
        return "" if is_right else f"{got.status_code}: {got.text}"

    def oversize(self, rng: random.Random) -> str:
        """Send a prompt that does not fit, or a body that may not come."""
        length = rng.choice([1000, 33 * 2**20])
        body = {"instances": [{"prompt": "\t" * length}]}
        got = self._http.post(f"/v1/models/{NAME}:predict", json=body)
        return "" if got.status_code in (400, 413) else f"{got.status_code}: {got.text}"

    def look(self, rng: random.Random) -> str:
        """Ask what is served."""
        path = rng.choice([f"/v1/models/{NAME}", f"/v1/models/{NAME}/metadata"])
        got = self._http.get(path)
        return "" if got.status_code == 200 else f"{path}: {got.status_code}"


@contextlib.contextmanager
def part() -> Iterator[tuple[Server, dict[str, Kind], Callable[[], str]]]:
    """Start the server, and give it with what clients do."""
    models = make_models()
    cases = make_cases(models, _CASES)
    with tempfile.TemporaryDirectory() as scratch:
        made = [Path(scratch) / f"made-{place}" for place in range(len(models))]
        for model, folder in zip(models, made, strict=True):
            model.export(folder, max_batch=4, max_new_tokens=16)
        (Path(scratch) / "models").mkdir()
        versions = Versions(made, Path(scratch) / "models" / NAME)
        arguments = [f"{scratch}/models", "--port", "0", "--grpc-port", "0"]
        with started(arguments, lambda address: []) as server:
            versions.address = server.address
            client = Client(server.address, cases, versions)
            kinds = {
                "predict": Kind(20, client.predict),
                "predict_version": Kind(10, client.predict_version),
                "leave_while_waiting": Kind(5, client.leave_while_waiting),
                "malformed": Kind(10, client.malformed),
                "oversize": Kind(1, client.oversize),
                "look": Kind(5, client.look),
            }
            yield server, kinds, versions.turn
            print(f"versions swapped: {versions.count}")
