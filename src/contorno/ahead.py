"""Work that threads do ahead of its reader or behind it, a bounded amount waiting; in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar, cast

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


def grouped(items: Iterable[T], alike: Callable[[T], tuple[object, int]]) -> Iterator[list[T]]:
    """Neighbours that have something in common, in lists.

    Args:
        items: in order.
        alike: of an item, what those of a list have in common, and how many a list holds at most.
    """
    group: list[T] = []
    common: object = None
    for item in items:
        kind, most = alike(item)
        if group and kind != common:
            yield group
            group = []
        group.append(item)
        common = kind
        if len(group) >= most:
            yield group
            group = []
    if group:
        yield group


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Items, of which a thread fetches the next while one is in use."""
    remaining, done = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming: Future[object] = pool.submit(next, remaining, done)
        while (item := coming.result()) is not done:
            coming = pool.submit(next, remaining, done)
            yield cast(T, item)


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
