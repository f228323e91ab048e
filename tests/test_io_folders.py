"""Whose an output folder is: runs that go on, others that are refused, and records that cannot be read."""

import json

import pytest

from openmm_backmap.errors import InputError
from openmm_backmap.io.folders import claim

OTHER = "{record} is of another run ({changed}); not {folder}"
SHORTER = "{folder} goes as far as {length}"
WANTED = {"seed": 1, "names": ("a", "b"), "steps": 10, "temperature_K": None}


@pytest.fixture
def record(tmp_path):
    """That of a folder which has just been claimed."""
    record = tmp_path / "runs" / "{one}" / "settings.json"
    claim(record, WANTED, OTHER)
    return record


def test_the_same_run_goes_on(record):
    before = record.read_text()
    claim(record, WANTED, OTHER)
    assert record.read_text() == before
    assert json.loads(before) == {**WANTED, "names": ["a", "b"]}
    assert [p.name for p in record.parent.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("wanted, changed", [
    ({**WANTED, "seed": 2, "names": ("a",)}, "seed, names"),
    ({**WANTED, "steps": 11}, "steps"),
    ({**WANTED, "more": 1}, "more"),
    ({"names": ("a", "b"), "steps": 10, "temperature_K": None}, "seed"),
])
def test_another_run_is_refused_and_leaves_the_record(record, wanted, changed):
    before = record.read_text()
    with pytest.raises(InputError) as refused:
        claim(record, wanted, OTHER)
    assert str(refused.value) == f"{record} is of another run ({changed}); not {record.parent}"
    assert record.read_text() == before


def test_a_run_may_become_longer(record):
    claim(record, {**WANTED, "steps": 12}, OTHER, length="steps", shorter=SHORTER)
    assert json.loads(record.read_text())["steps"] == 12
    with pytest.raises(InputError) as refused:
        claim(record, WANTED, OTHER, length="steps", shorter=SHORTER)
    assert str(refused.value) == f"{record.parent} goes as far as 12"
    assert json.loads(record.read_text())["steps"] == 12
    claim(record, WANTED, OTHER, length="steps")
    with pytest.raises(InputError, match=r"another run \(seed\)"):
        claim(record, {**WANTED, "steps": 1, "seed": 2}, OTHER, length="steps", shorter=SHORTER)


@pytest.mark.parametrize("content", [b"", b'{"seed": 1', b"\xff\xfe", b"[1]", b'{"steps": "ten"}'])
def test_a_damaged_record_is_said(record, content):
    record.write_bytes(content)
    with pytest.raises(InputError) as refused:
        claim(record, WANTED, OTHER, length="steps")
    said = str(refused.value)
    assert said == f"{record}: damaged; remove it and give the command that {record.parent} was begun with"
    record.unlink()
    claim(record, WANTED, OTHER, length="steps")
