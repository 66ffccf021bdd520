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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

__all__ = ["Step", "Walk", "run"]


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
        except Exception as error:  # noqa: BLE001  # whatever it is, it is shown and counted
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
