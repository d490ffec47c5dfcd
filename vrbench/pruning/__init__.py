"""Choosing, removing and restoring layers: importance scores, removal methods, and the resulting checkpoints."""
