"""One file for each finding: the jobs it needs, and what it makes of them."""
