"""The ``background`` decorators of all integrations: options that are wrong are refused where they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backjob.integrations import bottle, django, flask, pyramid

DECORATORS = [bottle.background, django.background, flask.background, pyramid.background]


@pytest.mark.parametrize("background", DECORATORS, ids=lambda each: each.__module__)
def test_an_option_without_its_name_is_refused_at_once(background: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="give its options by name"):
        background("reports")


@pytest.mark.parametrize("background", DECORATORS, ids=lambda each: each.__module__)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retrys": 3}, "'retrys' is not an option .*: did you mean 'retries'"),
        ({"retries": "3"}, "retries must be"),
        ({"delay": -1}, "delay must be"),
        ({"unique": "yes"}, "unique must be"),
        ({"method": "GET"}, "'method' is not an option"),
        ({"data": {}}, "'data' is not an option"),
        ({"headers": {"Host": "else.test"}}, "headers can't have Host"),
        ({"redirect_ok": "https://else.test"}, "redirect_ok must be"),
        ({"methods": "GET"}, "methods must be a list of HTTP methods"),
        ({"methods": []}, "methods must be a list of HTTP methods"),
        ({"methods": ["CONNECT"]}, "methods must be a list of HTTP methods"),
        ({"methods": ["po\u017ft"]}, "methods must be a list of HTTP methods"),
        ({"scope": "a" * 256}, "scope must be"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_at_once(background: Callable[..., Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        background(**options)
