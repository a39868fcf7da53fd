"""JSON of damaged files: every text is a value or one sentence with the file's name."""

from pathlib import Path

import pytest

from reeltok.files.parsing import parse_json, read_json, read_object

BAD = {
    "cut off": b'{"a": [1, 2',
    "not UTF-8": b'{"a": "\xff"}',
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a little too deep": b"[" * 65 + b"]" * 65,
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": [0, Infinity]}',
    "infinite in digits": b'{"a": 1e999}',
    "long integer": b'{"a": 9223372036854775808}',
    "thousands of digits": b'{"a": ' + b"7" * 5000 + b"}",
    "twice": b'{"a": 1, "b": 2, "a": 3}',
    "empty": b"",
}


@pytest.mark.parametrize("text", BAD.values(), ids=[*BAD])
def test_damage_is_one_sentence_with_the_name(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"some\.json is damaged \(.*\): copy it again") as caught:
        read_json(path)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)


def test_a_late_twin_is_found_at_once() -> None:
    keys = [f'"{number}": 0' for number in range(200_000)]
    with pytest.raises(ValueError, match="the key '199999' stands in it twice"):
        parse_json("{" + ", ".join([*keys, keys[-1]]) + "}", "x")


def test_what_is_whole_is_read() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1, -2.5, null]}', "x") == {"a": [1, -2.5, None]}
    assert parse_json("[" * 63 + "]" * 63, "x")
    assert parse_json("9223372036854775807", "x") == 2**63 - 1


def test_an_object_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"some\.json is damaged \(it holds no JSON object\)"):
        read_object(tmp_path / "some.json")
