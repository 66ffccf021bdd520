"""For a service's `demo` module: make real calls, show the real answers, count what is wrong.

async def main(walk: Walk) -> None:
    with walk.step("math.MathService/Add a=3 b=5") as step:
        reply = await client.stub.Add(AddRequest(a=3, b=5))
        step.expect(reply.result == 8, f"result: {reply.result}")

if __name__ == "__main__":
    run(main)
"""

from __future__ import annotations

import asyncio
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import click

__all__ = ["HttpAnswer", "Step", "Walk", "http_get", "run"]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server answered over HTTP.

    Attributes:
        status: Such as 200.
        headers: By name in lower case.
        body: The text, without white space around it.
    """

    status: int
    headers: Mapping[str, str]
    body: str

    def __str__(self) -> str:
        return f"{self.status} {self.body}"


async def http_get(url: str, headers: Mapping[str, str] | None = None) -> HttpAnswer:
    """GETs a URL of this machine; any status is an answer.

    Raises:
        OSError: Nobody answers.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get() -> HttpAnswer:
        request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310
        try:
            response = opener.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            names = {name.lower(): value for name, value in response.headers.items()}
            return HttpAnswer(response.status, names, response.read().decode().strip())

    return await asyncio.to_thread(get)


class Step:
    """One call and what came of it."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.right: bool | None = None

    def answer(self, text: object) -> None:
        """Shows something that the call answered."""
        self.answers.extend(str(text).splitlines())

    def expect(self, right: bool, text: object = "") -> None:
        """Shows an answer, and says whether it is the right one."""
        if text != "":
            self.answer(text)
        self.right = right and self.right is not False


class Walk:
    """Steps, one after the other; one that fails does not stop the rest.

    Attributes:
        steps: How many there were.
        wrong: How many of them were wrong.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.wrong = 0

    @contextmanager
    def step(self, call: str) -> Iterator[Step]:
        """A step: prints the call, the answers and ✓ or ✗.

        Wrong is an expectation that is not met, an exception, and a step that expects nothing.
        """
        step = Step()
        try:
            yield step
        except Exception as error:  # whatever it is, it is shown and counted
            step.expect(False, f"{type(error).__name__}: {error}")
        self.steps += 1
        self.wrong += not step.right
        mark = click.style("✓", fg="green") if step.right else click.style("✗", fg="red")
        click.echo(f"{mark} {call}")
        for line in step.answers:
            click.echo(f"    {line}")


def run(main: Callable[[Walk], Awaitable[None]]) -> NoReturn:
    """Runs the steps and exits: 0 if every answer was right, else 1."""

    async def steps() -> Walk:
        walk = Walk()
        await main(walk)
        return walk

    walk = asyncio.run(steps())
    sys.exit(1 if walk.wrong or not walk.steps else 0)
