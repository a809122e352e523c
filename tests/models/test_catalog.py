"""The catalogue describes every kind truthfully, and refuses options by name and bound."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from models.catalog import KINDS, describe, kind, parse_options
from models.errors import InvalidOption, UnknownKind
from models.options import DcganOptions


def test_the_catalogue_loads_without_pytorch() -> None:
    program = "import sys, models.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_defaults_of_dcgan_are_those_of_the_paper() -> None:
    options = DcganOptions()
    assert (options.latent_dim, options.base_channels, options.batch_size) == (100, 64, 64)
    assert (options.learning_rate, options.beta1) == (2e-4, 0.5)
    assert options.mirror is False


@pytest.mark.parametrize("name", KINDS)
def test_a_description_is_json_and_covers_every_option(name: str) -> None:
    described = json.loads(json.dumps(describe(kind(name))))
    assert described["name"] == name
    assert described["source"]
    assert [option["name"] for option in described["options"]] == list(kind(name).options.model_fields)
    for option in described["options"]:
        assert option["description"].endswith(".")
        assert option["type"] in {"integer", "number", "boolean", "string"}


@pytest.mark.parametrize("name", KINDS)
def test_every_bound_that_is_described_is_the_one_that_is_enforced(name: str) -> None:
    checked = 0
    for option in describe(kind(name))["options"]:
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound not in option:
                continue
            if option.get(f"exclusive_{bound}"):
                refused = option[bound]
            else:
                parse_options(name, {option["name"]: option[bound]})
                refused = option[bound] + beyond
            with pytest.raises(InvalidOption) as caught:
                parse_options(name, {option["name"]: refused})
            assert caught.value.parameter == option["name"]
            assert str(option[bound]) in (caught.value.bounds or "")
            checked += 1
    assert checked > 5


def test_options_may_be_written_as_on_a_command_line() -> None:
    options = parse_options("gan-dcgan", {"base_channels": "16", "conditional": "false", "learning_rate": "1e-3"})
    assert isinstance(options, DcganOptions)
    assert (options.base_channels, options.conditional, options.learning_rate) == (16, False, 1e-3)


@pytest.mark.parametrize(
    ("options", "parameter", "said"),
    [
        ({"wings": 2}, "wings", "base_channels"),
        ({"batch_size": "many"}, "batch_size", "integer from 2 to 1024"),
        ({"batch_size": 1}, "batch_size", "got 1"),
        ({"learning_rate": float("nan")}, "learning_rate", "number above 0"),
        ({"conditional": "perhaps"}, "conditional", "boolean or null"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name_and_bounds(
    options: dict[str, object], parameter: str, said: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_options("gan-dcgan", options)
    assert caught.value.parameter == parameter
    assert said in str(caught.value)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownKind, match=r"'gan-nope'.*gan-dcgan"):
        kind("gan-nope")
    with pytest.raises(UnknownKind):
        parse_options("gan-nope", {})


def test_a_kind_refuses_sizes_that_it_cannot_make() -> None:
    kind("gan-dcgan").check(64, 3)
    with pytest.raises(InvalidOption, match=r"resolution.*48.*32, 64, 96, 128"):
        kind("gan-dcgan").check(48, 3)
    with pytest.raises(InvalidOption, match="channels"):
        kind("gan-dcgan").check(64, 4)


def test_presets_give_options_that_the_users_own_overrule() -> None:
    quick = parse_options("gan-dcgan", {}, "quick")
    assert isinstance(quick, DcganOptions)
    assert (quick.base_channels, quick.loss) == (32, "relativistic")
    own = parse_options("gan-dcgan", {"base_channels": 16}, "quick")
    assert isinstance(own, DcganOptions)
    assert (own.base_channels, own.loss) == (16, "relativistic")
    with pytest.raises(InvalidOption, match=r"preset.*'fast'.*quick"):
        parse_options("gan-dcgan", {}, "fast")


@pytest.mark.parametrize("name", KINDS)
def test_every_preset_can_be_trained_and_is_described(name: str) -> None:
    for preset in kind(name).presets:
        parse_options(name, {}, preset.name)
        assert preset.summary.endswith(".")
    assert [one["name"] for one in describe(kind(name))["presets"]] == [one.name for one in kind(name).presets]


def test_an_option_whose_name_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidOption):
        parse_options("gan-dcgan", {"\ud800": 1})
