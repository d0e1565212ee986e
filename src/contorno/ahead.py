"""Work that threads do ahead of its reader: results in order, a bounded number of them waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def in_order(tasks: Iterable[Callable[[], T]], workers: int, *, waiting: int) -> Iterator[T]:
    """Results of tasks, in order.

    Args:
        tasks: taken one by one, as results are fetched.
        workers: threads; below 1 the tasks run where they are asked for.
        waiting: tasks that are begun, or done and not fetched, at any time.
    """
    if workers < 1:
        yield from (task() for task in tasks)
        return
    remaining = iter(tasks)
    with ThreadPoolExecutor(workers) as pool:
        begun = deque(pool.submit(task) for task in islice(remaining, waiting))
        try:
            while begun:
                result = begun.popleft().result()
                begun.extend(pool.submit(task) for task in islice(remaining, 1))
                yield result
        finally:
            for future in begun:
                future.cancel()


class Behind:
    """Work that threads do behind their caller, who waits when too much of it is open.

    Leaving the context waits for all of it. An error in it is raised at the next call, or there.
    """

    def __init__(self, workers: int, *, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(max(workers, 1))
        self._waiting = waiting
        self._open: deque[Future[None]] = deque()

    def __call__(self, task: Callable[[], None]) -> None:
        if len(self._open) >= self._waiting:
            self._open.popleft().result()
        self._open.append(self._pool.submit(task))

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._open:
                future.result()
