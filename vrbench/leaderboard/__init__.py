"""The leaderboard: what is handed in, read as a stranger's data, scored again from its answers, and shown."""
