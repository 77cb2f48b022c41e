"""Replicas of a GPT behind one address, with OpenAI's API: more of them when more is asked.

    python examples/ray_serve.py model=my-gpt/ max_replicas=4              # until Ctrl-C
    python examples/ray_serve.py model=my-gpt/ --ask                       # asks itself, then ends
    serve run examples.ray_serve:application model=my-gpt/ max_replicas=4  # on a Ray cluster

It needs the extra `ray`. Each replica is a process with the application that
`keras-gpt serve --model` runs, so answers, streams and errors are the same. Ray Serve gives a
request to a replica that is not busy, adds a replica when they are, and removes it when they are
not. On a cluster every machine must find the model: a path they share, or a name.
"""

import argparse
import json
import math
import signal
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from pydantic import BaseModel
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROMPT = "The list type"


class Settings(BaseModel):
    """What is served, and how far it grows."""

    model: str  # what `GPT.from_preset` takes
    name: str = "gpt"  # what clients call it
    min_replicas: int = 2
    max_replicas: int = 2
    max_batch: int = 8  # answers that a replica writes at a time
    max_length: int | None = None  # tokens of a prompt and its answer
    cpus: float = 1  # of each replica
    patience: float = 10  # seconds of load before a replica is added


@serve.deployment(health_check_period_s=5)
@serve.ingress()
class Replica:
    """One process with the model. Ray gives it no request before it has compiled everything."""

    def __init__(self, settings: Settings) -> None:
        from keras_gpt import GPT
        from keras_gpt.serving.openai import Limits, create_app

        limits = Limits(max_batch=settings.max_batch, max_length=settings.max_length)
        self._app = create_app(GPT.from_preset(settings.model), settings.name, limits=limits)
        self._service = self._app.state.service
        self._service.warm_up()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Give Ray the application, with a header that says which replica answered."""
        replica = serve.get_replica_context().replica_id.unique_id.encode()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def signed(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"x-replica", replica)]
                await send(message)

            await self._app(scope, receive, signed)

        return app

    def check_health(self) -> None:
        """Let Ray replace this process when the model can answer no more."""
        if not self._service.is_alive:
            raise RuntimeError("the engine has ended")


def application(settings: Settings) -> serve.Application:
    """Make the application: for `serve.run`, `serve run` and `serve build`."""
    replicas = Replica.options(
        ray_actor_options={"num_cpus": settings.cpus},
        # A replica answers this many together; what waits beyond that is for another one.
        max_ongoing_requests=2 * settings.max_batch,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.max_batch,
            "upscale_delay_s": settings.patience,
            "downscale_delay_s": 30 * settings.patience,
        },
    )
    return replicas.bind(settings)


def main() -> None:
    arguments = parse_arguments()
    settings = Settings(**dict(word.split("=", 1) for word in arguments.settings))
    # One machine: a slot for each replica, and little memory for what Ray itself passes around.
    ray.init(
        num_cpus=math.ceil(settings.max_replicas * settings.cpus),
        object_store_memory=10**8,
        include_dashboard=False,
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's `&` would leave the first ignored
        signal.signal(number, signal.default_int_handler)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": arguments.port})
        serve.run(application(settings), route_prefix="/")
        address = f"http://127.0.0.1:{arguments.port}/v1"
        print(f"Serving {settings.name} at {address} (OpenAI's API); Ctrl-C ends it.", flush=True)
        if arguments.ask:
            ask(address, settings.name)
        else:
            signal.pause()
    except KeyboardInterrupt:
        print("ending when what was begun is answered", flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()
    print("the replicas have ended")


def ask(address: str, model: str) -> None:
    """Stream one answer, then ask for many at a time and count who answers."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 16, "seed": 1}
    print(PROMPT, end="")
    with post(address, {**body, "stream": True}) as lines:
        for line in lines:
            if line.startswith(b"data: {"):
                print(json.loads(line[6:])["choices"][0]["text"], end="", flush=True)
    print()

    def replica_of(seed: int) -> str:
        with post(address, {**body, "seed": seed}) as answer:
            return str(answer.headers["x-replica"])

    with ThreadPoolExecutor(16) as threads:
        replicas = Counter(threads.map(replica_of, range(64)))
    for replica, count in replicas.items():
        print(f"replica {replica} answered {count} requests")


def post(address: str, body: dict[str, Any]) -> Any:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}/completions", json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=120)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("settings", nargs="+", metavar="NAME=VALUE", help="see Settings in this file")
    add("--port", type=int, default=8000)
    add("--ask", action="store_true", help="ask it, show who answers, and end")
    return parser.parse_args()


if __name__ == "__main__":
    main()
