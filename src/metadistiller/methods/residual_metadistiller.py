"""MetaDistiller whose targets begin as self-distillation: the generator learns what to add to the final output.

T_k = softmax((s_k S_K + G_k) / tau), with S_K detached, s_k 1 and G_k 0 at first; s_k is a part of theta_g. Not in the
paper: its generator begins with targets that say nothing, and the meta-gradient is weak, so that a short training
spends the soft half of eq. 4 on noise (docs/notes/2026-11-28-small-data.md). From here it cannot begin worse than
self_distillation, which it equals bit for bit while nothing has taught the generator (targets=frozen). All else is
metadistiller's.
"""

from .metadistiller import Options, build

__all__ = ["NAMES", "Options", "build"]

NAMES: dict[str, dict[str, object]] = {"residual_metadistiller": {"residual": True}}
