"""Addresses: what is one, what is none, and what each says when it is wrong."""

from __future__ import annotations

import pytest

from tunesmith.errors import ModelError, UsageError
from tunesmith.registry.names import Address, check_labels, check_name, looks_like_address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("support-router:3", Address("support-router", 3)),
        ("support-router:3@120", Address("support-router", 3, 120)),
        ("a.b_c@production", Address("a.b_c", label="production")),
    ],
)
def test_addresses_are_read_and_written_alike(text, address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "router:",
        "router:latest",
        "Router:3",
        "router:3@x",
        "@production",
        "router:3:4",
        "router:-1",
        "router:³",
        "..:1",
    ],
)
def test_what_is_no_address_says_how_one_is_written(text):
    with pytest.raises(ModelError, match="name:3@120") as caught:
        parse_address(text)
    assert caught.value.code == "registry.address"


def test_names_of_the_hosted_service_are_reserved():
    with pytest.raises(ModelError) as caught:
        parse_address("ft:base:project:suffix:id")
    assert caught.value.code == "model.reserved"
    with pytest.raises(UsageError):
        check_name("ft")


@pytest.mark.parametrize("text", ["org/name", "./a:3", "C:\\models", "/tmp/x@y", "smollm2-135m-instruct"])
def test_paths_hub_ids_and_catalog_ids_do_not_look_like_addresses(text):
    assert not looks_like_address(text)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a:b", "a@b", "-x", "x" * 81, "Ä", "A", ".hidden", "a\n"])
def test_names_that_could_lead_elsewhere_are_refused(name):
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert caught.value.code == "registry.name"


def test_all_wrong_labels_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        check_labels(["good", "production", "latest", "../x"], "alias")
    assert [problem.value for problem in caught.value.problems] == ["production", "latest", "../x"]
    with pytest.raises(UsageError, match="staging, production, archived"):
        check_labels(["live"], "stage")
