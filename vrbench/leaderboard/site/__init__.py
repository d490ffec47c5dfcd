"""The leaderboard as a static site: `build` writes it, `serve` shows it."""

from vrbench.leaderboard.site.build import build
from vrbench.leaderboard.site.serve import serve

__all__ = ["build", "serve"]
