"""Any model, cut in any way, lost and repeated in any way, is joined to the same bytes; anything else is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.chunks import MAX_PARTS, Parts, Piece, check, cut, digests, pieces
from protocol.errors import Reason, Rejected
from protocol.release import MAX_CHUNK_BYTES, Manifest, digest
from protocol.topics import ChunkAddress

ROOT = Path(__file__).resolve().parents[2]
BASE = json.loads((ROOT / "edge_agent" / "models" / "classifier" / "manifest.json").read_bytes())


def manifest_of(model: bytes, chunk_bytes: int) -> Manifest:
    fields = {"digest": digest(model), "size_bytes": len(model), "chunk_bytes": chunk_bytes, "chunks": digests(model, chunk_bytes)}
    return Manifest.parse(json.dumps({**BASE, **fields}).encode())


@given(st.binary(min_size=1, max_size=2000), st.integers(1, 500))
def test_cut_and_join_are_inverse(model: bytes, chunk_bytes: int) -> None:
    chunks = cut(model, chunk_bytes)
    manifest = manifest_of(model, chunk_bytes)
    for number, chunk in enumerate(chunks):
        check(manifest, number, chunk)
    assert b"".join(chunks) == model
    assert all(len(chunk) <= chunk_bytes for chunk in chunks)


@given(st.binary(min_size=1, max_size=2000), st.integers(1, 500), st.data())
def test_parts_make_the_chunk_in_any_order_and_however_often_they_come(model: bytes, chunk_bytes: int, data: st.DataObject) -> None:
    manifest = manifest_of(model, chunk_bytes)
    parts = Parts(manifest)
    for number, chunk in enumerate(cut(model, chunk_bytes)):
        divisions = data.draw(st.lists(st.integers(1, MAX_PARTS), min_size=1, max_size=3))
        some = [piece for division in divisions for piece in pieces(number, chunk, division)]
        disordered = data.draw(st.permutations(some))
        found = [parts.add(piece, part) for piece, part in [*disordered, *pieces(number, chunk, divisions[0])]]
        assert chunk in found
        assert set(found) <= {chunk, None}


@given(st.integers(0, 9999), st.integers(1, MAX_PARTS), st.data())
def test_a_piece_is_named_in_a_topic(number: int, parts: int, data: st.DataObject) -> None:
    piece = Piece(number, data.draw(st.integers(0, parts - 1)), parts)
    assert Piece.parse(ChunkAddress("b", "ab" * 16, str(piece)).piece) == piece


@pytest.mark.parametrize("text", ["", "x", "1-2", "1-2-2", "1-0-49", "1-0-0", "99999"])
def test_what_names_no_piece_is_rejected(text: str) -> None:
    with pytest.raises(Rejected):
        Piece.parse(text)


@given(st.integers(0, 9999), st.binary(max_size=200))
def test_other_bytes_are_refused(number: int, data: bytes) -> None:
    manifest = manifest_of(b"the model" * 100, 300)
    with pytest.raises(Rejected) as caught:
        Parts(manifest).add(Piece(number), data)
    assert caught.value.reason is Reason.WRONG_DIGEST


def test_a_part_that_is_too_large_is_not_kept() -> None:
    manifest = manifest_of(b"the model" * 100, 300)
    with pytest.raises(Rejected) as caught:
        Parts(manifest).add(Piece(0, 0, 2), bytes(151))
    assert caught.value.reason is Reason.TOO_LARGE


def test_chunks_are_never_larger_than_brokers_take() -> None:
    with pytest.raises(Rejected):
        cut(bytes(10), MAX_CHUNK_BYTES + 1)
