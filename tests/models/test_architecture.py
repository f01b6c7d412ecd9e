"""Base classes of a family's config: bounds, config.json, and the keys of the `model:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from foretrain.config import build
from foretrain.errors import ConfigError, ModelError
from foretrain.models.architecture import Architecture, ModelSection, Positive, Rate, Whole, section_of


@dataclass(frozen=True)
class Shape(Architecture):
    title = "small model"
    signature = ("width", "shape")
    ours: ClassVar = {"steps": 8}

    width: Annotated[int, Field(ge=2, le=64)]
    shape: str
    heads: Whole = 0  # 0 = width
    dropout: Rate = 0.1
    scale: Positive = 1.0
    bias: bool = False
    twice: bool | None = None
    steps: Whole = 8

    def inconsistencies(self) -> list[str]:
        return [f"heads {self.heads} do not divide {self.width}"] if self.heads and self.width % self.heads else []


class Start(ModelSection):
    preset: Literal["small"] | None = None


class ShapeSection(section_of(Shape, ("heads", "breadth", "dropout"), Start, named={"breadth": "width"})):
    presets: ClassVar = {"small": {"width": 4, "shape": "round"}}
    adjustable: ClassVar = ("dropout",)

    family: Literal["shape"] = "shape"
    more: int = 1


GIVEN = {"width": 8, "shape": "round"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 1}, "width is 1, must be a whole number of at least 2"),
        ({"width": 65}, "width is 65, must be at most 64"),
        ({"width": 8.0}, "width is 8.0, must be a whole number"),
        ({"heads": True}, "heads is True, must be a whole number of at least 1"),
        ({"dropout": 1}, r"dropout is 1, must be in \[0, 1\)"),
        ({"scale": 0}, "scale is 0, must be positive"),
        ({"scale": "big"}, "scale is 'big', must be a number"),
        ({"scale": 2**64}, "scale is 18446744073709551616, must be at most 1e"),
        ({"bias": 1}, "bias is 1, must be true or false"),
        ({"twice": 1}, "twice is 1, must be true or false"),
        ({"heads": 3}, "heads 3 do not divide 8"),
        ({"width": 1, "scale": -1.0}, "small model: width is 1.*; scale is -1.0"),
    ],
)
def test_impossible_values_are_named_all_at_once(change, words):
    with pytest.raises(ModelError, match=words):
        Shape(**{**GIVEN, **change})


def test_defaults_and_an_allowed_none_are_accepted():
    assert Shape(**GIVEN, heads=0, twice=None).twice is None


def test_unknown_keys_are_kept_and_our_own_are_written_if_they_differ():
    read = Shape.from_json({**GIVEN, "later": [1], "bias": None})
    assert read.extra == {"later": [1]} and read.bias is False
    assert read.to_json()["later"] == [1] and "steps" not in read.to_json()
    assert Shape(**GIVEN, steps=9).to_json()["steps"] == 9
    assert list(read.to_json()) == sorted(read.to_json())


def test_a_file_that_lacks_a_key_is_of_another_family():
    assert Shape.required() == ["shape", "width"]
    with pytest.raises(ModelError, match=r"here: not a small model: shape, width missing"):
        Shape.from_json({"heads": 1}, "here")
    assert Shape.matches(GIVEN) and not Shape.matches({"width": 8})


def test_the_section_appends_keys_with_the_architectures_bounds():
    assert list(ShapeSection.model_fields) == [
        "family", "model_id", "revision", "random_init", "preset", "heads", "breadth", "dropout", "more"
    ]  # fmt: skip
    assert build(ShapeSection, {}).model_dump() == {
        "family": "shape", "model_id": None, "revision": None, "random_init": False, "preset": None, "heads": None,
        "breadth": None, "dropout": None, "more": 1,
    }  # fmt: skip
    for key, value in (("heads", 0), ("breadth", 65), ("dropout", 1.0)):
        with pytest.raises(ConfigError, match=key):
            build(ShapeSection, {key: value})


def test_random_initialisation_uses_the_preset_changed_by_the_given_keys():
    made = build(ShapeSection, {"preset": "small", "heads": 2}).architecture(10, 5)
    assert made == Shape(width=4, shape="round", heads=2)


def test_a_checkpoint_accepts_adjustable_keys_but_no_contradiction():
    class Named(section_of(Shape, ("width", "dropout"))):
        adjustable: ClassVar = ("dropout",)
        family: Literal["named"] = "named"

    stored = Shape(**GIVEN)
    assert build(Named, {"model_id": "x", "width": 8, "dropout": 0.5}).fitted(stored, 10, 5).dropout == 0.5
    with pytest.raises(ModelError, match=r"'x' fixes the architecture: width is 4 here and 8 there\. Leave"):
        build(Named, {"model_id": "x", "width": 4}).fitted(stored, 10, 5)


@pytest.mark.parametrize("given", [{}, {"model_id": "x", "random_init": True}])
def test_a_section_names_weights_or_random_initialisation_but_not_both(given):
    with pytest.raises(ConfigError, match="give either model_id"):
        build(ShapeSection, given).check_start()


@pytest.mark.parametrize(
    ("value", "text"), [(10**12, "1000000000000, must be at most 1,048,576"), (10**400, r"0\.\.\., must")]
)
def test_sizes_are_bounded_and_long_ones_are_cut_in_the_message(value, text):
    with pytest.raises(ModelError, match=f"steps is 10*{text}" if value > 10**13 else f"steps is {text}"):
        Shape(width=8, shape="x", steps=value)
