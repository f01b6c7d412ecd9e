from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from foretrain.config import Section, apply_overrides, build, dump_yaml, parse_scalar, read_yaml
from foretrain.errors import ConfigError


class Leaf(Section):
    rate: float = 1e-4
    steps: int = 10
    names: tuple[str, ...] = ()


class Root(Section):
    leaf: Leaf = Leaf()
    leaves: tuple[Leaf, ...] = ()
    seed: int


def test_every_problem_is_in_one_message_with_its_key_and_a_suggestion():
    with pytest.raises(ConfigError) as caught:
        build(Root, {"leaf": {"ratee": 1, "steps": "many"}, "sed": 1}, source="run.yaml")
    text = str(caught.value)
    assert text.startswith("run.yaml: 4 problems")
    assert "leaf.ratee: unknown key. Did you mean 'rate'?" in text
    assert "leaf.steps:" in text and "'many'" in text
    assert "sed: unknown key. Did you mean 'seed'?" in text
    assert "seed: required, but not given." in text


def test_unknown_key_inside_a_list_of_sections_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"leaves\.0\.stepz: unknown key\. Did you mean 'steps'\?"):
        build(Root, {"seed": 1, "leaves": [{"stepz": 1}]})


def test_a_value_in_place_of_a_section_is_an_error_that_lists_the_section_s_keys():
    with pytest.raises(ConfigError, match=r"leaf: takes settings of its own \(rate, steps, names\), not 8192\."):
        build(Root, {"leaf": 8192, "seed": 1})


def test_a_single_word_in_place_of_a_list_is_an_error_that_shows_the_list():
    with pytest.raises(ConfigError, match=r"leaf\.names: takes a list, such as \[a\], not 'a'\."):
        build(Root, {"leaf": {"names": "a"}, "seed": 1})


def test_a_tree_is_frozen():
    root = build(Root, {"seed": 1})
    with pytest.raises(Exception, match="frozen"):
        root.seed = 2


def test_overrides_set_nested_values_lists_and_new_sections_and_the_last_wins():
    tree = {"leaves": [{"steps": 1}], "seed": 1}
    done = apply_overrides(tree, ["leaf.rate=3e-5", "leaves.0.steps=7", "leaf.names=[a, b]", "seed=2", "seed=3"])
    root = build(Root, done)
    assert (root.leaf.rate, root.leaves[0].steps, root.leaf.names, root.seed) == (3e-5, 7, ("a", "b"), 3)
    assert tree == {"leaves": [{"steps": 1}], "seed": 1}, "the original tree must stay as it was"


def test_the_first_entry_of_a_list_that_is_not_there_is_made():
    assert apply_overrides({"leaves": []}, ["leaves.0.steps=7"]) == {"leaves": [{"steps": 7}]}
    assert apply_overrides({}, ["leaf.names.0=a"]) == {"leaf": {"names": ["a"]}}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("steps", "an override reads section.key=value"),
        ("seed.a=1", "is a value"),
        ("leaves.5.steps=1", "is not one of the 1 list entries"),
        ("seed=[1", "cannot read"),
    ],
)
def test_a_bad_override_says_what_to_type(item, message):
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"leaves": [{"steps": 1}], "seed": 1}, [item])


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("5E3", 5e3), ("-2e+1", -20.0), ("1e5x", "1e5x"), ("3", 3)]
)
def test_scientific_notation_without_a_dot_is_a_number(text, value):
    assert parse_scalar(text) == value and type(parse_scalar(text)) is type(value)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8), st.lists)
)
def test_what_is_dumped_is_what_is_read(value):
    assert parse_scalar(dump_yaml({"value": value})) == {"value": value}


def test_yaml_tags_that_build_objects_are_refused(tmp_path: Path):
    path = tmp_path / "evil.yaml"
    path.write_text("seed: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "model:\n  family: chronos2\n bad: 1\n",
            "not valid YAML: line 3, column 2: expected a key in line with those",
        ),
        ("model:\n\tfamily: chronos2\n", r"line 2, column 1: .* Indent with blanks, not with tabs"),
        ("a: [1, 2\n", r"line 2, column 1: expected ',' or '\]'"),
        ("", "is empty; a config is a mapping of sections"),
        ("- a\n", "found a list"),
        ("date,sales\n", "found text"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path: Path, text: str, answer: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=answer) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value) and "unicode string" not in str(caught.value)


def test_a_key_given_twice_is_an_error(tmp_path: Path):
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match="line 2: key 'seed' is given twice"):
        read_yaml(path)


def test_missing_and_malformed_files_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="a config is a mapping"):
        read_yaml(tmp_path / "list.yaml")


def test_dump_keeps_declaration_order_and_reads_back():
    root = build(Root, {"seed": 4, "leaf": {"rate": 2e-5}})
    text = dump_yaml(root)
    assert list(yaml.safe_load(text)) == ["leaf", "leaves", "seed"]
    assert build(Root, parse_scalar(text)) == root


class Square(Section):
    kind: Literal["square"] = "square"
    side: float


class Circle(Section):
    kind: Literal["circle"] = "circle"
    radius: float


class Drawing(Section):
    shape: Annotated[Square | Circle, Field(discriminator="kind")]


def test_a_problem_in_one_of_several_kinds_of_section_is_named_by_the_keys_that_were_written():
    with pytest.raises(ConfigError) as caught:
        build(Drawing, {"shape": {"kind": "circle", "radus": 1}})
    assert "shape.radus: unknown key. Did you mean 'radius'?" in str(caught.value)
    assert "shape.radius: required" in str(caught.value)


def test_an_unknown_kind_of_section_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"shape\.kind: 'circel' is not known\. Did you mean 'circle'\?"):
        build(Drawing, {"shape": {"kind": "circel"}})


def test_text_with_the_unicode_line_breaks_survives_a_dump():
    assert parse_scalar(dump_yaml({"value": "a\x85b\u2028c\u2029"})) == {"value": "a\x85b\u2028c\u2029"}


def test_a_wrong_entry_of_a_list_is_one_problem():
    class Filled(Section):
        leaves: Annotated[tuple[Leaf, ...], Field(min_length=1)]

    with pytest.raises(ConfigError, match=r"1 problem\n  leaves\.0\.steps"):
        build(Filled, {"leaves": [{"steps": "many"}]})
    with pytest.raises(ConfigError, match="1 problem\n  leaves: "):
        build(Filled, {"leaves": []})


LAUGHS = "\n".join(
    ['a: &a ["x", "x", "x", "x", "x", "x", "x", "x", "x"]']
    + [f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]" for k in range(9)]
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS, "more than 100,000 values, counting what aliases repeat"),
        ("&a [*a]", "an alias names what holds it"),
        ("a: " + "9" * 5000, "a value cannot be read"),
        ("a: !!timestamp 2024-13-45", "month must be in 1..12"),
        ("? [a]\n: 1", "line 1: a key is a list, not text"),
        ("{? {a: 1} : 2}", "line 1: a key is a dict, not text"),
        ("a: " + "[" * 3000, "nested too deep"),
        ("a: " + "[" * 150 + "]" * 150, "nested more than 100 deep"),
        ("a: !!timestamp 99", "a value cannot be read"),
        ("a: !!bool q", "a value cannot be read"),
        ("0x" + "f" * 5000, "a whole number has more than 4,096 bits"),
    ],
)
def test_hostile_yaml_is_one_line_in_files_and_overrides(tmp_path: Path, text: str, why: str):
    (tmp_path / "c.yaml").write_text(text)
    for read in (lambda: read_yaml(tmp_path / "c.yaml"), lambda: parse_scalar(text)):
        with pytest.raises(ConfigError, match=why) as raised:
            read()
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


def test_anchors_of_ordinary_size_are_read(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("a: &a {steps: 3}\nb: *a\nc: {<<: *a, d: 1}\n")
    assert read_yaml(tmp_path / "c.yaml") == {"a": {"steps": 3}, "b": {"steps": 3}, "c": {"steps": 3, "d": 1}}


def test_a_pipe_in_place_of_a_config_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read: not a plain file\."):
        read_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e400"])
def test_numbers_of_a_config_are_finite(number: str):
    class Rate(Section):
        rate: float

    with pytest.raises(ConfigError, match=r"rate: .*finite"):
        build(Rate, {"rate": parse_scalar(number)})


def test_whole_numbers_beyond_64_bits_and_nul_characters_are_refused_wherever_they_are():
    class Names(Section):
        names: tuple[str, ...] = ()
        seed: int = 0

    with pytest.raises(ConfigError, match=r"here: seed: whole numbers are between -2\^63 and 2\^63 - 1\."):
        build(Names, {"seed": 2**63}, source="here")
    with pytest.raises(ConfigError, match=r"here: names\.1: holds a NUL character\."):
        build(Names, {"names": ["a", "b\0"]}, source="here")


@pytest.mark.parametrize("part", ["²", "9" * 5000, "-1", "1_0", "٣"])
def test_a_place_in_a_list_is_a_number_of_its_entries(part: str):
    with pytest.raises(ConfigError, match="is not one of the 1 list entries"):
        apply_overrides({"a": [{"b": 1}]}, [f"a.{part}.b=2"])


def test_an_override_of_a_part_leaves_the_value_of_an_earlier_one_as_it_was():
    section = {"b": 1, "c": [{"d": 2}]}
    found = apply_overrides({}, [("a", section), ("a.b", 3), ("a.c.0.d", 4)])
    assert found == {"a": {"b": 3, "c": [{"d": 4}]}} and section == {"b": 1, "c": [{"d": 2}]}
