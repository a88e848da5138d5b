"""The paper's results in miniature: cached jobs, one section for each finding, one page."""
