"""Requests -> answers: batching, the vision-feature cache, the answer store, and the two harness adapters."""
