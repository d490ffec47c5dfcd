"""vrbench: what does a vision-language model whose LLM was made cheaper still see, and what can it still read?"""

__version__ = "0.1.0"
