"""The loop and what it needs: updates, evaluation, checkpoints, export. No method is named here."""
