"""Conversion of checkpoints in their authors' layout to folders that transformers loads without their code."""
