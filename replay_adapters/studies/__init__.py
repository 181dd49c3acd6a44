"""The studies on any pair and any lmms-eval task: prompts and scores are the harness's own."""
