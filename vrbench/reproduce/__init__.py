"""The paper's tables as data, the plan that repeats each at a chosen scale, and the report of what came out."""
