"""The paper's tables as data, plans that reproduce them at a chosen scale, and reports of the results."""
