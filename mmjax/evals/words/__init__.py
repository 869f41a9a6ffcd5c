"""Scores of texts that need no model: caption metrics, answers of questions, yes or no."""
