"""Training methods by name.

A method is one public module (see _base.py for the contract); the private ones hold what methods share.
"""

from ._base import Losses, Method, Objective, Player, Setting

__all__ = ["Losses", "Method", "Objective", "Player", "Setting"]
