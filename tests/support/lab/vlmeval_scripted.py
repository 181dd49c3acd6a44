"""``vlmeval_replay`` with a policy that writes the lab's answers instead of decoding.

All else is real: the sets (whose checksums are not those of the published files), prompts,
pictures, the model's own generate up to its decoding, and the scorers.
"""

from typing import Any

import torch

from tests.support.lab.answers import LETTERS


def main() -> None:
    import vlmeval.dataset as sets

    from replay_adapters.vlmevalkit import models
    from replay_adapters.vlmevalkit.launcher import main as launch
    from replay_core import Steered

    for kind in sets.DATASET_CLASSES:
        if hasattr(kind, "DATASET_MD5"):
            kind.DATASET_MD5 = dict.fromkeys(kind.DATASET_MD5)
    generate = models.ReplayMixin._generate
    asked: list[Any] = []

    def generating(self: Any, **arguments: Any) -> Any:
        asked[:] = [self.item[1], self.processor.tokenizer]
        return generate(self, **arguments)

    def decode(self: Any, inputs: Any, result: Any, **generation: Any) -> torch.Tensor:
        index, tokenizer = asked
        ids = [*tokenizer(LETTERS[index].text).input_ids, tokenizer.eos_token_id]
        return torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)

    models.ReplayMixin._generate, Steered.decode = generating, decode  # type: ignore[method-assign]
    launch()


if __name__ == "__main__":
    main()
