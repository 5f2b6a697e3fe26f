"""Stopping between two batches of an evaluation."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """An evaluation was broken off between two batches, as whoever asked for it wanted; it has changed nothing."""


def until(interrupted: Callable[[], bool], batches: Iterable[T]) -> Iterator[T]:
    """The batches; asks before each. Raises: Stopped."""
    for batch in batches:
        if interrupted():
            raise Stopped
        yield batch
