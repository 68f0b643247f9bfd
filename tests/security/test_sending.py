"""What is sent to ManageBac holds nothing that its sender does not see."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from school_site import Site, serve

from rostersync.errors import Invalid
from rostersync.managebac.avatar import encode
from rostersync.managebac.fields import payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACE = b"46.0511N 14.5051E"


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def exif(order: str, orientation: int) -> bytes:
    head = {">": b"MM\0*", "<": b"II*\0"}[order]
    entries = struct.pack(f"{order}HHHIHH", 2, 0x0112, 3, 1, orientation, 0)
    gps = struct.pack(f"{order}HHII", 0x8825, 4, 1, 38)
    return b"Exif\0\0" + head + struct.pack(f"{order}I", 8) + entries + gps + b"\0" * 4 + PLACE


def jpeg(order: str = ">", orientation: int = 6) -> bytes:
    hidden = (segment(0xE1, exif(order, orientation)), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PLACE))
    more = (segment(0xED, b"Photoshop 3.0\0" + PLACE), segment(0xFE, PLACE), segment(0xE2, b"MPF\0" + PLACE))
    shown = segment(0xDB, b"table") + segment(0xDA, b"head") + b"pixels\xff\x00\xff\xd0more" + b"\xff\xd9"
    return b"\xff\xd8" + segment(0xE0, b"JFIF\0") + b"".join((*hidden, *more)) + shown + b"\xff\xd8" + PLACE


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), name) + data + b"crc "


PNG = b"\x89PNG\r\n\x1a\n" + b"".join(
    chunk(name, data)
    for name, data in [(b"IHDR", b"x" * 13), (b"eXIf", PLACE), (b"tEXt", PLACE), (b"IDAT", b"pixels"), (b"IEND", b"")]
)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(struct.pack("<4sI", name, len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


WEBP = riff((b"VP8X", b"\x0c" + b"\0" * 9), (b"VP8 ", b"pixels"), (b"EXIF", PLACE), (b"XMP ", PLACE))
GIF = (
    b"GIF89a" + b"\1\0\1\0\x80\0\0" + b"colour" + b"\x21\xfe" + bytes([len(PLACE)]) + PLACE + b"\0"
    b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" + b"\x21\xff\x0bXMP DataXMP" + PLACE[:1] + b"6" * 52 + b"\0"
    b"\x2c" + b"\0" * 8 + b"\0" + b"\x02" + b"\x06pixels\0" + b"\x3b" + PLACE
)


@pytest.mark.parametrize("picture", [jpeg(), jpeg("<"), PNG, WEBP, GIF], ids=["jpeg", "jpeg <", "png", "webp", "gif"])
def test_an_avatar_says_nothing_of_where_it_was_taken_and_keeps_its_pixels(picture: bytes) -> None:
    body, _ = encode(None, picture)
    assert PLACE in picture
    assert PLACE not in body
    assert b"pixels" in body


@pytest.mark.parametrize(
    "picture",
    [
        b"\xff\xd8" + segment(0xE0, b"JFXX\0\x10" + PLACE) + jpeg()[2:],
        b"\xff\xd8" + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\2\3" + PLACE) + jpeg()[2:],
        b"\xff\xd8" + segment(0xEE, PLACE) + jpeg()[2:],
        b"\xff\xd8" + segment(0xEE, b"Adobe\0\x64" + b"\0" * 5 + PLACE) + jpeg()[2:],
        b"\xff\xd8" + segment(0xF0, PLACE) + jpeg()[2:],
        PNG[:8] + chunk(b"caBX", PLACE) + PNG[8:],
        riff((b"VP8 ", b"pixels"), (b"C2PA", PLACE)),
        GIF[:19] + b"\x21\x01\x0c" + b"\0" * 12 + bytes([len(PLACE)]) + PLACE + b"\0" + GIF[19:],
    ],
    ids=[
        "jpeg with a thumbnail",
        "jpeg with a thumbnail in its header",
        "jpeg, where Adobe's mark would be",
        "jpeg, behind Adobe's mark",
        "jpeg, in a reserved segment",
        "png",
        "webp",
        "gif",
    ],
)
def test_nothing_that_another_program_added_to_an_avatar_is_sent(picture: bytes) -> None:
    body, _ = encode(None, picture)
    assert PLACE not in body
    assert b"pixels" in body


def test_a_portrait_stays_upright() -> None:
    body, _ = encode(None, jpeg("<", 6))
    assert segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)) in body


def test_the_mark_that_says_how_colours_are_stored_stays() -> None:
    mark = segment(0xEE, b"Adobe\0\x64" + b"\0" * 4 + b"\x02")
    body, _ = encode(None, b"\xff\xd8" + mark + jpeg()[2:])
    assert mark in body


def test_what_stays_of_a_webp_says_so() -> None:
    body, _ = encode(None, WEBP)
    assert riff((b"VP8X", b"\0" * 10), (b"VP8 ", b"pixels")) in body


@pytest.mark.parametrize("picture", [jpeg(), PNG, WEBP, GIF], ids=["jpeg", "png", "webp", "gif"])
@given(st.data())
def test_a_picture_that_is_cut_off_or_damaged_is_sent_without_the_place_or_not_at_all(
    picture: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(12, len(picture) - len(PLACE) - 1))
    damaged = picture[:at] + data.draw(st.binary(max_size=2))
    with suppress(Invalid):
        assert PLACE not in encode(None, damaged)[0]


# Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "character", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200f", "\u2028", "\x7f", "\n", "\0"]
)
def test_a_character_that_steers_is_refused_in_what_is_sent(character: str) -> None:
    for fields in ({"nickname": f"a{character}b"}, {"languages": ["en", f"s{character}l"]}):
        with pytest.raises(Invalid, match=r"control character|direction"):
            payload(fields)
    with pytest.raises(Invalid, match="must be an address"):
        encode(f"https://example.org/a{character}b.jpg", None)


def test_letters_of_all_scripts_and_joiners_are_sent() -> None:
    fields = {"nickname": "\u0645\u06cc\u200c\u062e\u0648 👩\u200d🚀", "street_address": "Żółć 李\xa01"}
    assert payload(fields) == fields


# Files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    with serve(tmp_path, sqlite_url, 12) as site:
        site.configure(allow_writes="true")
        yield site


def test_a_result_file_replaces_no_file_whatever_is_beside_it(site: Site) -> None:
    file = site.folder / "many.csv"
    file.write_text(f"id,city\n{min(site.school.truth())},Piran\n", encoding="utf-8")
    (site.folder / "many.result.csv.1").write_text("precious", encoding="utf-8")
    for _ in range(3):
        site.ok("students", "update", "--from-csv", str(file), "--expect", "1", "--yes")
    assert (site.folder / "many.result.csv.1").read_text(encoding="utf-8") == "precious"
    earlier = [(site.folder / f"many.result.csv.{n}").read_text(encoding="utf-8") for n in (2, 3)]
    assert [",done," in earlier[0], ",unchanged," in earlier[1]] == [True, True]
