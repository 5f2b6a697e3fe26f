"""Checks of options that several methods share."""

from dataclasses import fields
from typing import Any

from ..config import require


def check_weights(alpha: float, temperature: float) -> None:
    """Raises: ConfigError where alpha or tau is out of its range."""
    require(0 <= alpha <= 1, "method.alpha", alpha, "take 0 to 1; the paper uses 0.5")
    require(temperature > 0, "method.temperature", temperature, "take a number above 0; the paper uses 1")


def check_inner_width(inner_width: int | None) -> None:
    """Raises: ConfigError where the exits' inner width is not a number of channels."""
    require(
        inner_width is None or inner_width >= 1,
        "method.inner_width",
        inner_width,
        "take 1 or more, or null",
    )


def refuse_unused(options: Any, *names: str, because: str) -> None:
    """Of options that change nothing beside another one only the defaults pass, which every config.yaml holds.

    Args:
        options: a method's.
        names: of its fields that have no effect.
        because: the option that makes them so, as on the command line.
    Raises: ConfigError naming the first that differs from its default.
    """
    for field in fields(options):
        if field.name in names:
            value = getattr(options, field.name)
            require(
                value == field.default,
                f"method.{field.name}",
                value,
                f"it has no effect with --method.{because}; leave it out, or at {field.default}",
            )
