"""Layers chosen, removed and restored: importance scores, removal methods, and the checkpoint folders that result."""
