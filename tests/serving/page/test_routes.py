"""The files of the page: where they lie, what they say of themselves, and what is not there."""

import re
import socket
from importlib import resources

import httpx
import pytest

from keras_gpt.serving.openai.keys import Key, Keys, _digest
from keras_gpt.serving.page.routes import page_routes

STATIC = resources.files("keras_gpt.serving.page") / "static"
FILES = {file.name: file.read_text(encoding="utf-8") for file in STATIC.iterdir()}


@pytest.fixture
def http(server):
    with server.http() as client:
        yield client


def test_the_page_and_what_it_loads(http):
    page = http.get("/")
    assert page.text == FILES["index.html"]
    loaded = {
        *re.findall(r'(?:src|href)="([^"]+)"', page.text),
        *(f"page/{name}" for text in FILES.values() for name in re.findall(r'"\./(.+?)"', text)),
    }
    assert loaded == {f"page/{name}" for name in FILES if name != "index.html"}
    types = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    for path in loaded:
        got = http.get(f"/{path}")
        assert got.status_code == 200
        assert got.headers["content-type"] == types.get(path.split(".")[-1], "image/svg+xml")
        assert got.text == FILES[path.removeprefix("page/")]
    assert page.headers["content-type"] == "text/html; charset=utf-8"


def test_a_browser_is_told_to_run_nothing_else(http):
    for path in ("/", "/page/main.js"):
        headers = http.get(path).headers
        policy = dict(
            each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert {name: value for name, value in policy.items() if value == "'self'"}.keys() == {
            "script-src",
            "style-src",
            "img-src",
            "connect-src",
        }
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_nothing_inline_and_nothing_from_elsewhere():
    for name, text in FILES.items():
        assert not re.search(r"https?:|//cdn|@import|url\(|\bstyle=|\son[a-z]+=", _own(text)), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", text)
    assert re.findall(r"<script(?! type=\"module\" src=)|<style", FILES["index.html"]) == []


def _own(text):
    return text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_what_has_not_changed_is_not_sent_again(http):
    first = http.get("/page/page.css")
    again = http.get("/page/page.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    other = http.get("/page/page.css", headers={"if-none-match": '"other"'})
    assert other.content == first.content
    head = http.head("/page/page.css")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page",
        "/page/index.html",
        "/page/nothing.js",
        "/page/../routes.py",
        "/page/..%2froutes.py",
        "/page/%2e%2e/routes.py",
        "/page//etc/passwd",
        "/../../etc/passwd",
        "/page/main.js%00",
    ],
)
def test_no_path_leads_to_other_files(server, path):
    # By hand: a client of HTTP would tidy the path up.
    with socket.create_connection(("127.0.0.1", httpx.URL(server.address).port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b"\r\n")[0].split()[1] in (b"404", b"307"), answer[:200]
    assert b"import" not in answer


def test_other_methods_are_refused(http):
    assert http.post("/").json()["error"]["code"] == "method_not_allowed"


def test_the_page_needs_no_key_and_is_not_in_the_api_s_document(start):
    keys = Keys([Key("ada", _digest("sk-ada"), None, None)])
    with start(keys=keys) as server, server.http() as client:
        assert client.get("/").status_code == 200
        paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/attention" in paths
    assert not [path for path in paths if path == "/" or path.startswith("/page")]


def test_routes_are_there_for_every_file():
    assert len(page_routes()) == len(FILES)


def contrast(one, other):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05

    a, b = light(one), light(other)
    return max(a, b) / min(a, b)


@pytest.mark.parametrize("scheme", [0, 1])
def test_texts_can_be_read_on_what_is_behind_them(scheme):
    """Contrast 4.5 for text and 3 for the edges of what can be used: WCAG 2.2, AA."""
    block = FILES["page.css"].split(":root {")[1 + scheme].split("}")[0]
    six = re.sub(r"#(\w)(\w)(\w);", r"#\1\1\2\2\3\3;", block)
    colour = dict(re.findall(r"--([\w-]+): (#\w{6});", six))
    grounds = ("paper", "panel", "raised")
    looks = re.findall(r"--tint-look: (#\w{6})", FILES["attention.css"])
    pairs = [
        *((ink, ground) for ink in ("ink", "quiet", "accent", "bad") for ground in grounds),
        ("ink", "tint-low"),
        ("ink", "tint-high"),
        ("ink", "accent-soft"),
        ("accent", "accent-soft"),
        ("on-accent", "accent"),
    ]
    for ink, ground in pairs:
        assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
    assert contrast(colour["ink"], looks[scheme]) >= 4.5
    for ground in grounds:
        assert contrast(colour["edge"], colour[ground]) >= 3, ground
