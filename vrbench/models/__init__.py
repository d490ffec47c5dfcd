"""A vision-language model: its tower, projector and decoder layers, however it was stored."""
