"""`keras-gpt evaluate`: perplexity of text, tasks with right answers, ROUGE-L and BLEU of answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_gpt.cli.common import Quantize, console, load_gpt, new_tokens, require_use, say
from keras_gpt.files import require_free_file, whole_file

_LM_EVAL = "lm-eval:"
_USUAL_PAIRS = 100


def evaluate(
    model: Annotated[str, typer.Argument(help="Any MODEL that generates.")],
    text: Annotated[
        list[str] | None, typer.Option(help="Text to measure perplexity on: a file or a folder.")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="--text: tokens read at once; by default the context, <= 1024."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="--text: tokens the window moves by; by default half of it.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="arc_easy, piqa, copa, winogrande, hellaswag or lambada, with --data; or "
            "lm-eval:NAME for any task of lm-eval (extra eval)."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="--task: its file of JSON lines.")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="JSON lines with the fields source and target.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="--pairs: the most tokens of an answer; by default 64, or half of a shorter context."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="The most questions (by default all) or pairs (by default 100)."),
    ] = None,
    quantize: Quantize = None,
    output: Annotated[
        str | None, typer.Option("--json", help="Write the numbers to a file.")
    ] = None,
    details: Annotated[
        bool, typer.Option(help="--json: each question's answer and log-probabilities too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="--json: replace the file.")] = False,
) -> None:
    """Measure a model: --text for perplexity, --task for questions, --pairs for its answers (greedy)."""
    if not text and not task and not pairs:
        raise ValueError("give --text, --task or --pairs (or several). Received: none of them")
    if task and not task.startswith(_LM_EVAL) and data is None:
        raise ValueError(f"--task {task} needs its file: --data FILE. Received: no --data")
    require_use("--text", text, {"--window": window, "--stride": stride})
    require_use("--task", task, {"--data": data})
    require_use("--pairs", pairs, {"--max-new-tokens": max_new_tokens})
    require_use("--json", output, {"--details": details or None, "--overwrite": overwrite or None})
    if output:
        require_free_file(output, overwrite)
    gpt = load_gpt(model, quantize)
    numbers: dict[str, Any] = {"model": model, "quantization": gpt.quantized_mode}
    if text:
        numbers["perplexity"] = _perplexity(gpt, text, window, stride)
    if task and task.startswith(_LM_EVAL):
        numbers["lm_eval"] = _lm_eval(gpt, task.removeprefix(_LM_EVAL), limit)
    elif task and data:
        numbers["task"] = _task(gpt, task, data, limit, details)
    if pairs:
        most = new_tokens(gpt, max_new_tokens)
        numbers["pairs"] = _answers(gpt, pairs, most, _USUAL_PAIRS if limit is None else limit)
    if output:
        with whole_file(output) as scratch:
            content = json.dumps(numbers, indent=2, ensure_ascii=False, default=str)
            scratch.write_text(content + "\n", encoding="utf-8")
        say(f"numbers in {output}")


def _perplexity(
    gpt: Any, text: list[str], window: int | None, stride: int | None
) -> dict[str, Any]:
    from keras_gpt.data import read_documents
    from keras_gpt.evaluation import perplexity

    with _Bar("windows") as bar:
        result = perplexity(gpt, read_documents(text), window, stride, bar.start)
    say(f"loss            {result.loss:.4f} nats per token")
    say(f"perplexity      {result.perplexity:.2f}")
    say(f"bits per byte   {result.bits_per_byte:.4f}")
    say(f"tokens          {result.num_tokens:,}")
    say(f"window, stride  {result.window}, {result.stride}")
    return result._asdict()


def _task(gpt: Any, task: str, data: str, limit: int | None, details: bool) -> dict[str, Any]:
    from rich.table import Table

    from keras_gpt.evaluation import evaluate as run

    with _Bar(task) as bar:
        result = run(gpt, task, data, limit, bar.start)
    table = Table("task", "questions", "measure", "value", "standard error")
    for name, measure in result.measures.items():
        error = "" if measure.standard_error is None else f"{measure.standard_error:.4f}"
        table.add_row(task, f"{result.num_questions:,}", name, f"{measure.value:.4f}", error)
    console.print(table)
    if result.num_cut:
        say(f"{result.num_cut} rows did not fit the context and lost their beginning")
    return {"data": data, **result.to_dict(details)}


def _lm_eval(gpt: Any, task: str, limit: int | None) -> dict[str, Any]:
    from keras_gpt.evaluation import KerasGPTLM

    adapter = KerasGPTLM(gpt)
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    # A path is a task of the user's own: its folder is added to those that are known.
    folder = Path(task).parent if task.endswith(".yaml") else None
    manager = TaskManager(include_path=None if folder is None else str(folder))
    result = lm_eval.simple_evaluate(
        model=adapter,
        tasks=[task if folder is None else Path(task).stem],
        limit=limit,
        task_manager=manager,
    )
    say(make_table(result))
    return dict(result["results"])


class _Bar:
    """A progress bar with rows per second and the time left, drawn while rows are scored."""

    def __init__(self, what: str) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Speed(ProgressColumn):
            def render(self, task: Any) -> Text:
                return Text(f"{task.speed:.1f} rows/s" if task.speed else "compiling")

        self._what = what
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Speed(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def start(self, total: int) -> Callable[[int], None]:
        """Begin with so many rows; give the function that counts them."""
        bar = self._progress.add_task(self._what, total=total)
        return lambda rows: self._progress.advance(bar, rows)


def _answers(gpt: Any, pairs: str, max_new_tokens: int, limit: int) -> dict[str, Any]:
    from itertools import islice

    import keras_gpt.metrics

    sources, targets = [], []
    with open(pairs, encoding="utf-8") as lines:
        for number, line in islice(enumerate(lines, 1), limit):
            record = json.loads(line)
            if not {"source", "target"} <= set(record):
                raise ValueError(
                    f"--pairs needs the fields source and target in every line. Received: "
                    f"{pairs}, line {number} with {sorted(record)}"
                )
            sources.append(record["source"])
            targets.append(record["target"])
    if not sources:
        raise ValueError(f"--pairs must hold at least one line. Received: {pairs}")
    answers = []
    for source in sources:
        pieces = gpt.stream(source, max_new_tokens=max_new_tokens, temperature=0.0, truncate="left")
        answers.append("".join(pieces).strip())
    rouge = float(keras_gpt.metrics.RougeL()(targets, answers)["f1_score"])
    bleu = float(keras_gpt.metrics.Bleu()([[target] for target in targets], answers))
    say(f"ROUGE-L F1      {rouge:.4f}")
    say(f"BLEU            {bleu:.4f}")
    say(f"pairs           {len(sources):,}")
    return {"data": pairs, "rouge_l_f1": rouge, "bleu": bleu, "num_pairs": len(sources)}
