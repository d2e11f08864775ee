"""Files that are no recipes, each with its reason; byte-order marks and line ends do not matter."""

from __future__ import annotations

import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipe.load import load_recipe

SHORTEST = b"model: tiny\ndata:\n  train: train.jsonl\n"


@pytest.fixture
def load(tmp_path):
    def load(content: bytes):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content)
        return load_recipe(path)

    return load


@pytest.fixture
def refused(load, tmp_path):
    """The lines of the error, without the folder."""

    def refused(content: bytes, code: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(content)
        assert caught.value.code == code
        assert caught.value.exit_code == 10
        return [line.replace(f"{tmp_path}/", "") for line in caught.value.lines()]

    return refused


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf" + SHORTEST, SHORTEST.replace(b"\n", b"\r\n"), SHORTEST.replace(b"\n", b"\r"), SHORTEST.rstrip()],
    ids=["byte-order mark", "CRLF", "CR", "no last line end"],
)
def test_bytes_that_do_not_matter(load, content):
    assert load(content) == load(SHORTEST)


def test_lines_are_counted_whatever_ends_them(refused):
    wrong = SHORTEST + b"trian: {}\n"
    for content in (wrong, b"\xef\xbb\xbf" + wrong.replace(b"\n", b"\r\n")):
        assert refused(content, "recipe.unknown_key")[1] == "  trian (line 4): unknown key"


def test_missing(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "none.yaml")
    assert (caught.value.code, caught.value.place) == ("recipe.missing", str(tmp_path / "none.yaml"))


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path)
    assert (caught.value.code, caught.value.value) == ("recipe.unreadable", "Is a directory")


@pytest.mark.parametrize("content", [b"", b"\n", b"# only words\n", b"null\n", b"---\n"])
def test_empty(refused, content):
    assert refused(content, "recipe.empty") == [
        "recipe.yaml: the recipe is empty",
        "  hint: it needs at least model and data.train",
    ]


@pytest.mark.parametrize("content", [b"- model\n", b"tiny\n", b"3\n"])
def test_no_mapping(refused, content):
    assert refused(content, "recipe.not_mapping") == ["recipe.yaml: a recipe is a mapping of keys to values"]


def test_not_utf8(refused):
    assert refused(b"model: \xff\n", "recipe.encoding") == ["recipe.yaml: the recipe is not UTF-8 text"]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (b"model: other\n", "line 4: a key is written twice: model"),
        (b"train:\n  seed: 1\n  seed: 2\n", "line 6: a key is written twice: train.seed"),
        (b"train: {seed: 1, seed: 2}\n", "line 4: a key is written twice: train.seed"),
        (b"technique: {targets: [{a: 1, a: 2}]}\n", "line 4: a key is written twice: technique.targets.0.a"),
    ],
)
def test_a_key_written_twice(refused, more, line):
    assert refused(SHORTEST + more, "recipe.repeated_key") == [f"recipe.yaml, {line}"]


def test_equal_keys_of_different_mappings_are_no_repetition(load):
    sources = b"model: tiny\ndata:\n  train:\n  - {path: a}\n  - {path: b}\n"
    assert [source.path for source in load(sources).data.train] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"model: &a tiny\ndata: {train: *a}\n", "line 1: a recipe has no aliases: data.train"),
        (b"a: &a [*a]\n", "line 1: a recipe has no aliases: a.0"),
        (SHORTEST + b"train:\n  <<: {seed: 1}\n  seed: 2\n", "line 5: a recipe has no merged keys: train.<<"),
    ],
)
def test_aliases(refused, content, line):
    assert refused(content, "recipe.alias") == [f"recipe.yaml, {line}"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"model: tiny\n\tdata: x\n", ", line 2: this is no YAML: found character '\\t' that cannot start any token"),
        (b"model: [a\ndata: b\n", ", line 2: this is no YAML: expected ',' or ']', but got ':'"),
        (SHORTEST + b"---\n" + SHORTEST, ", line 4: this is no YAML: but found another document"),
        (b"? [a]\n: 2\n", ", line 1: this is no YAML: found unhashable key"),
        (b"model: 2024-13-41\n", ": this is no YAML: month must be in 1..12"),
        (
            b"model: \0\n",
            ": this is no YAML: unacceptable character #x0000: special characters are not allowed",
        ),
        (
            b"model: !!python/object:os.system x\n",
            ", line 1: this is no YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'",
        ),
    ],
)
def test_no_yaml(refused, content, line):
    assert refused(content, "recipe.yaml") == [f"recipe.yaml{line}"]


def test_deep_nesting(refused):
    assert refused(b"a: " + b"[" * 600 + b"]" * 600, "recipe.yaml") == ["recipe.yaml: this is nested too deeply"]


def test_nesting_that_can_be_read_is_one_unknown_key(refused):
    assert refused(b"".join(b" " * depth + b"a:\n" for depth in range(200)), "recipe.unknown_key")[1:3] == [
        "  a (line 1): unknown key",
        "    hint: it is one of model, data, task, objective, technique, train, strategy, fit, evaluate, export, "
        "executor",
    ]
