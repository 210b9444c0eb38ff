"""Answers requests of every protocol: finds the version, decodes, waits for the network; counts what is under way."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from kerazoo.errors import is_out_of_memory
from kerazoo.serving.codes import RequestError, check_count
from kerazoo.serving.limits import Limits
from kerazoo.serving.model import ServedModel, Work
from kerazoo.serving.pools import Pool, Slots
from kerazoo.serving.versions import Versions

PATIENCE = 120.0  # seconds for an answer
WAITING = 128  # threads that wait for the network: the most images that can be in one batch are in as many requests
T = TypeVar("T")
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Asked:
    """What a request asks: a `model`, and `values` for the one input of its `signature`.

    With `refuse`, it is an error if none of its images can be decoded; else, they are rows without an answer.
    """

    model: ServedModel
    signature: str
    values: np.ndarray
    refuse: bool = False


class Service:
    """Answers from the served version of `versions`. It belongs to one event loop."""

    def __init__(self, versions: Versions, limits: Limits) -> None:
        self.versions = versions
        self.limits = limits
        self.draining = False
        self.requests = Slots(limits.queue, "requests")
        self.slots = Slots(limits.queue)  # of images; how many a request has is known when it is read
        self.decoders = Pool("decode", os.cpu_count() or 1)
        self.waiters = Pool("answer", min(WAITING, limits.queue))

    async def answer(self, read: Callable[[], Asked], write: Callable[[Asked, Outputs], T]) -> T:
        """`write` of what `read` asked and its outputs; both run in threads.

        Raises RequestError, also if the server is busy or takes too long.
        """
        self.requests.take(1)
        task = asyncio.ensure_future(self._in_two_steps(read, write))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # if nobody waits for it any more
        try:
            return await asyncio.wait_for(asyncio.shield(task), PATIENCE)
        except TimeoutError as error:
            raise RequestError(f"no answer within {PATIENCE:.0f} s", "DEADLINE_EXCEEDED") from error

    async def _in_two_steps(self, read: Callable[[], Asked], write: Callable[[Asked, Outputs], T]) -> T:
        taken = 0

        def first() -> tuple[Asked, Work]:
            nonlocal taken
            asked = read()
            count = len(asked.values) if asked.values.ndim else 1
            check_count(count, self.limits.queue)
            self.slots.take(count)
            taken = count
            work = asked.model.prepare(asked.signature, asked.values)
            if asked.refuse and work.problem:
                raise RequestError(work.problem)
            return asked, work

        def second(asked: Asked, work: Work) -> T:
            return write(asked, asked.model.finish(work))

        try:
            asked, work = await self.decoders.run(_true_cause, first)
            return await self.waiters.run(_true_cause, lambda: second(asked, work))
        finally:
            self.slots.give(taken)
            self.requests.give(1)

    def trouble(self) -> str:
        """What is wrong with the threads; "" if nothing is."""
        return self.decoders.trouble() or self.waiters.trouble() or self.versions.trouble()

    @property
    def is_busy(self) -> bool:
        """Whether a thread has not ended its job."""
        return self.decoders.is_busy or self.waiters.is_busy

    def close(self) -> None:
        """Stop the threads."""
        self.versions.close()
        self.decoders.close()
        self.waiters.close()


def _true_cause(step: Callable[[], T]) -> T:
    """The result of a step, whose lack of memory is a RequestError."""
    try:
        return step()
    except RecursionError as error:
        raise RequestError("the request is nested too deeply") from error
    except Exception as error:
        if isinstance(error, RequestError) or not is_out_of_memory(error):
            raise
        words = "there is not enough memory for this request; send fewer or smaller images"
        raise RequestError(words, "RESOURCE_EXHAUSTED") from error
