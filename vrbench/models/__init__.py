"""Loaded vision-language models: tower, projector and decoder layers, in whatever form they were stored."""
