"""A Config as a command reads it."""

from metadistiller.config import Config
from metadistiller.settings import parse


def read(*words: str) -> Config:
    return parse(words, command="metadistiller train").config


def from_yaml(text: str, *words: str) -> Config:
    return read("--config", text + "\n", *words)
