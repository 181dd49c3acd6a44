"""Questions to ask of finished runs; each module answers one and prints nothing."""
