"""`hf://`: through the hub's own library, its cache and its offline mode, from a hub on this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from gpt_cases import make_gpt

from keras_gpt.checkpoints.hub import parse_hub_address

COMMIT = "a" * 40
# A revision whose weights break off in the middle.
BROKEN = "b" * 40


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://owner/name", ("owner/name", None, None)),
        ("hf://owner/name@v1.0", ("owner/name", "v1.0", None)),
        ("hf://owner/name/q4.gguf", ("owner/name", None, "q4.gguf")),
        ("hf://owner/name@main/sub/q4.gguf", ("owner/name", "main", "sub/q4.gguf")),
    ],
)
def test_an_address_is_taken_apart(source: str, expected: tuple[str, ...]) -> None:
    """Repository, revision, file."""
    assert parse_hub_address(source) == expected


@pytest.mark.parametrize(
    "source",
    ["hf://", "hf://name", "hf:///name", "hf://owner/", "hf://owner/name@", "hf://o/n/../../x"],
)
def test_a_wrong_address_is_named(source: str) -> None:
    """With the form that is right."""
    with pytest.raises(ValueError, match="Received"):
        parse_hub_address(source)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the few answers that the hub's library asks for, and one repository."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    make_gpt().save_to_huggingface(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never asked for")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            name = path.rsplit("/", 1)[1]
            if path.startswith("/api/models/owner/name/revision/"):
                siblings = [{"rfilename": file} for file in files]
                commit = BROKEN if name == BROKEN else COMMIT
                self._give(json.dumps({"id": "owner/name", "sha": commit, "siblings": siblings}))
            elif path.startswith("/api/models/owner/name/tree/"):
                tree = [
                    {"type": "file", "path": file, "size": len(data), "oid": "0"}
                    for file, data in files.items()
                ]
                self._give(json.dumps(tree))
            elif path.startswith("/owner/name/resolve/") and name in files:
                broken = path.startswith(f"/owner/name/resolve/{BROKEN}/")
                self._give(files[name], broken and name.endswith(".safetensors"))
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()

        do_HEAD = do_GET  # noqa: N815  the base class names it

        def _give(self, body: str | bytes, broken: bool = False) -> None:
            data = body.encode() if isinstance(body, str) else body
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", BROKEN if BROKEN in self.path else COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[: len(data) // 2] if broken else data)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


# The hub's library reads its settings when it is imported, so each set of them has a process of its
# own; what is loaded in it can have a cache of its own.
_SCRIPT = """
import json, sys, keras_gpt
from huggingface_hub import constants
usual = constants.HF_HUB_CACHE
for source, cache in json.load(sys.stdin):
    constants.HF_HUB_CACHE = cache or usual
    try:
        gpt = keras_gpt.GPT.from_preset(source)
        print('layers', gpt.config.num_layers, 'sum', float(gpt.weights[0].numpy().sum()))
    except Exception as error:
        print(type(error).__name__, ' '.join(str(error).splitlines()))
"""


def _load(sources: list[tuple[str, Path | None]], home: Path, **environment: str) -> list[str]:
    """Load from the usual cache below `home`, or from another one; give what each load said."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input=json.dumps([(source, cache and str(cache)) for source, cache in sources]),
        env={**os.environ, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(sources)
    return lines


class Said(NamedTuple):
    """What loading said, online and then offline, and the folder of all caches."""

    there: list[str]
    absent: list[str]
    broken: list[str]
    folder: Path


@pytest.fixture(scope="module")
def said(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Said:
    folder = tmp_path_factory.mktemp("caches")
    home, empty, broken = (folder / name for name in ("home", "empty", "broken"))
    there, cut_off = "hf://owner/name", f"hf://owner/name@{BROKEN}"
    online = [(there, None), ("hf://owner/other", empty), (cut_off, broken)]
    offline = [(there, None), (there, empty), (cut_off, broken)]
    lines = zip(
        _load(online, home, HF_ENDPOINT=hub),
        _load(offline, home, HF_ENDPOINT=hub, HF_HUB_OFFLINE="1"),
        strict=True,
    )
    return Said(*map(list, lines), folder)


def test_a_model_comes_from_the_hub_and_then_from_its_cache(said: Said) -> None:
    """Online, then offline; torch's file is not fetched where there are safetensors."""
    online, offline = said.there
    assert online.startswith("layers 2")
    assert list((said.folder / "home").rglob("model.safetensors"))
    assert not list(said.folder.rglob("pytorch_model.bin"))
    assert offline == online


def test_what_the_hub_has_not_is_named(said: Said) -> None:
    """A repository, a file, and no hub at all."""
    absent, offline = said.absent
    assert absent.startswith("FileNotFoundError the hub does not give hf://owner/other")
    assert offline.startswith("ConnectionError hf://owner/name is not in the hub's cache")


def test_a_download_that_breaks_off_is_named(said: Said) -> None:
    """Whatever the hub's HTTP library calls it; nothing half-made is loaded later."""
    for line in said.broken:
        assert line.startswith("ConnectionError "), line
        assert f"hf://owner/name@{BROKEN}" in line
    assert not list((said.folder / "broken").rglob("*.safetensors"))
