"""Leaderboards: submissions read as untrusted data, scored again from their answers, ranked and published."""
