"""The report of a run: metrics.json, figures, and one HTML file that needs nothing else."""
