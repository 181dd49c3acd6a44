"""configs/README.md: every field of a pair file has a line, its example and its rows hold."""

import re

import pytest
import yaml
from lmms_eval.utils import simple_parse_args_string

from replay_adapters.settings import options
from replay_adapters.settings.pairs import PairFile, Protocol, read_pair
from replay_adapters.settings.resources import resource

README = (resource("configs") / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", [*PairFile.model_fields, *Protocol.model_fields])
def test_every_field_of_a_pair_file_has_a_line(name):
    lines = [line for line in README.splitlines() if line.startswith("| `")]
    assert any(f"`{name}`" in line for line in lines)


def test_the_example_is_a_pair_file(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(example, encoding="utf-8")
    pair = read_pair(str(path))
    assert (pair.name, pair.policy) == ("mine", yaml.safe_load(example)["policy"])
    typed = {"pair": str(path), "replay_preset": "careful"}
    assert options.resolve(typed).config.step_size == 2


def test_the_published_rows_are_what_their_presets_resolve_to():
    rows = re.findall(r"^\| [^|]+ \| `(pair=[^`]+preset=[^`]+)` \|(.*)\|$", README, re.MULTILINE)
    assert len(rows) == 4
    for typed, told in rows:
        settings = options.resolve(simple_parse_args_string(typed))
        config, protocol = settings.config, settings.protocol
        layers, gamma, alpha, pixels = (cell.strip().replace(",", "") for cell in told.split("|"))
        assert layers.removesuffix(" (assumed)") == str(config.layers)
        assert (float(gamma), float(alpha)) == (config.threshold, config.step_size)
        limits = f"{protocol.min_pixels} and {protocol.max_pixels}"
        assert pixels == limits.replace("None and None", "not published")
        assert (config.steps, config.boundary) == (25, "reference")
