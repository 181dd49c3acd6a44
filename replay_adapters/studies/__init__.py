"""The studies as commands, asked through a harness."""
