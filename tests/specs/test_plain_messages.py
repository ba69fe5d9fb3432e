"""Errors about any field are in words of the files, not of Python."""

from __future__ import annotations

import re

import pytest
from support.field_tables import table

from sim.errors import InputError
from sim.specs import load

FIELDS = re.findall(r"^\| `([a-z_.]+)` \|", table(), re.MULTILINE)
VALUES = ["text", "1.5", "[]", "{}", "true", "[1, {a: b}]", "-1", "null"]
OF_PYTHON = re.compile(r"Input should|Errno|object at 0x|Spec\(|<class|NoneType|tuple")


@pytest.mark.slow
@pytest.mark.every_case
@pytest.mark.parametrize("scenario", ["llama3_70b_tp8_standard", "deepseek_v3_chunk"])
def test_no_message_about_a_field_speaks_python(scenario: str) -> None:
    assert len(FIELDS) > 150
    messages = []
    for field in FIELDS:
        for value in VALUES:
            try:
                load.scenario(scenario, [f"{field}={value}"])
            except InputError as error:
                messages.append(str(error))
    assert len(messages) > len(FIELDS)
    assert [message for message in messages if OF_PYTHON.search(message)] == []
