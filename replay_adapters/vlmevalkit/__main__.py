"""``python -m replay_adapters.vlmevalkit`` is the command ``vlmeval_replay``."""

from replay_adapters.vlmevalkit.launcher import main

if __name__ == "__main__":
    main()
