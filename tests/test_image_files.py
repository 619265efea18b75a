"""Records and IDX files; and that every file is known by its content and read, or refused in one message."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from image_bytes import Pixels, cifar_binary, idx, python2_batch, random_pixels

from bnhw.errors import BadInput
from bnhw.image_files import content
from bnhw.image_files.class_names import CIFAR10_CLASSES, CIFAR100_CLASSES
from bnhw.image_files.formats import FORMATS, read_image_file
from bnhw.image_files.idx import MAX_DEFLATE_RATIO
from bnhw.images import read_images

COLOUR = random_pixels(4, 32, 32, 3)
GREY = random_pixels(4, 5, 6)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# CIFAR records.


def test_records_of_cifar_10(tmp_path: Path) -> None:
    path = written(tmp_path / "x", cifar_binary(COLOUR, [9, 0, 3, 1]))
    found = read_image_file(path, "test")
    np.testing.assert_array_equal(found.decode(), COLOUR)
    assert found.labels is not None
    assert found.labels.tolist() == [9, 0, 3, 1]
    assert found.classes == CIFAR10_CLASSES


def test_records_of_cifar_100_have_their_fine_label(tmp_path: Path) -> None:
    found = read_image_file(written(tmp_path / "x", cifar_binary(COLOUR, [19, 0, 3, 1], [99, 0, 50, 1])), "train")
    np.testing.assert_array_equal(found.decode(), COLOUR)
    assert found.labels is not None
    assert found.labels.tolist() == [99, 0, 50, 1]
    assert found.classes == CIFAR100_CLASSES


def test_records_are_a_view_of_the_file(tmp_path: Path) -> None:
    pixels = read_images(written(tmp_path / "x", cifar_binary(COLOUR, [1] * 4)), limit=2).pixels
    assert not pixels.flags.owndata
    assert pixels.strides == (3073, 32, 1, 1024)


@pytest.mark.parametrize(
    "data",
    [
        cifar_binary(COLOUR, [9, 0, 10, 1]),
        cifar_binary(COLOUR, [20, 0, 0, 0], [1] * 4),
        cifar_binary(COLOUR, [1] * 4, [100, 0, 0, 0]),
        cifar_binary(COLOUR, [1] * 4)[:-1],
        b"",
    ],
)
def test_records_with_other_labels_or_cut_off_are_no_known_file(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadInput, match=r"x: \d+ bytes that begin with '.*' are of no known kind"):
        read_images(written(tmp_path / "x", data))


def test_classes_are_as_many_as_their_names() -> None:
    assert (len(CIFAR10_CLASSES), len(set(CIFAR100_CLASSES))) == (10, 100)
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


# IDX.


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9)), st.booleans())
def test_images_of_idx_files(tmp_path: Path, pixels: Pixels, compressed: bool) -> None:
    path = written(tmp_path / "x", gzip.compress(idx(pixels)) if compressed else idx(pixels))
    np.testing.assert_array_equal(read_images(path).pixels, pixels)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_labels_of_idx_files(tmp_path: Path, compress: type[bytes]) -> None:
    images = written(tmp_path / "images", compress(idx(GREY)))
    labels = written(tmp_path / "labels", compress(idx(np.array([9, 1, 1, 0], np.uint8))))
    found = read_images(images, labels=labels)
    assert found.labels is not None
    assert found.labels.tolist() == [9, 1, 1, 0]
    with pytest.raises(BadInput, match=r"labels: its header says \(4,\); images have the axes \(N, H, W\), labels"):
        read_images(labels)
    with pytest.raises(BadInput, match=r"images: its header says \(4, 5, 6\); images have the axes"):
        read_images(images, labels=images)


def test_a_gzip_file_of_several_members_is_one(tmp_path: Path) -> None:
    whole = idx(GREY)
    path = written(tmp_path / "x.gz", gzip.compress(whole[:50]) + gzip.compress(whole[50:]))
    np.testing.assert_array_equal(read_images(path).pixels, GREY)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (idx(GREY)[:-1], r"its header says \(4, 5, 6\), 136 bytes in all; it has 135; fetch it again"),
        (idx(GREY) + b"x", r"136 bytes in all; it has more; fetch it again"),
        (idx(GREY[:0]), r"images have the shape \(0, 5, 6\)"),
        (bytes((0, 0, 8, 100)) + struct.pack(">100I", *[1] * 99, 1) + b"x", r"images have the axes"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", *[2**32 - 1] * 3), r"at most 8589934592 are read; split the file"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 2000, 1000, 1000), r"2000000016 bytes in all|can unpack to"),
    ],
)
def test_idx_files_of_another_length_than_their_header_says(
    tmp_path: Path, data: bytes, message: str, compress: type[bytes]
) -> None:
    with pytest.raises(BadInput, match=message):
        read_images(written(tmp_path / "x", compress(data)))


def test_idx_files_of_other_numbers_are_no_known_files(tmp_path: Path) -> None:
    float_file = idx(GREY, kind=13)
    with pytest.raises(BadInput, match="begin with '00 00 0d 03 00 00 00 04' are of no known kind"):
        read_images(written(tmp_path / "x", float_file))
    with pytest.raises(BadInput, match=r"x: begins with 00 00 0d 03; an IDX file of uint8 is expected$"):
        read_images(written(tmp_path / "x", gzip.compress(float_file)))
    with pytest.raises(BadInput, match=r"an IDX file of uint8 is expected; unpack an archive first \(tar -xzf\)"):
        read_images(written(tmp_path / "cifar-10-python.tar.gz", gzip.compress(b"cifar-10-batches-py/")))


def test_more_than_a_gzip_file_can_hold_is_refused_without_memory_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = bytes((0, 0, 8, 3)) + struct.pack(">3I", 80_000, 300, 300)
    path = written(tmp_path / "x.gz", gzip.compress(claims + b"x"))
    with pytest.raises(BadInput, match=r"its header says \(80000, 300, 300\), more than 3\d bytes can unpack to"):
        read_images(path)
    assert len(zlib.compress(bytes(10**7), 9)) * MAX_DEFLATE_RATIO >= 10**7
    bomb = written(path, gzip.compress(idx(np.zeros((1000, 100, 100), np.uint8))))
    assert bomb.stat().st_size < 10_000
    assert len(read_images(bomb).pixels) == 1000
    monkeypatch.setattr(content, "MAX_IMAGE_BYTES", 1_000_000)
    with pytest.raises(BadInput, match="holds 10000016 bytes, at most 1000000 are read"):
        read_images(bomb)


def test_damaged_gzip_files_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(idx(GREY))
    for damaged in (whole[:-1], whole[:30], whole[:-5] + b"x" + whole[-4:], whole[:3] + b"\xff" * 20):
        with pytest.raises(BadInput, match=r"damaged gzip file .*; fetch it again"):
            read_images(written(tmp_path / "x.gz", damaged))


def test_idx_and_records_are_told_apart(tmp_path: Path) -> None:
    labels = written(tmp_path / "l", idx(np.ones(3073 * 2 - 8, np.uint8)))
    np.save(tmp_path / "i.npy", np.zeros((3073 * 2 - 8, 1, 1), np.uint8))
    assert read_images(tmp_path / "i.npy", labels=labels).labels is not None
    record = bytearray(cifar_binary(COLOUR[:1], [0]))
    record[1:8] = (0, 8, 3, 0, 0, 0, 1)
    assert read_images(written(tmp_path / "r", bytes(record))).pixels.shape == (1, 32, 32, 3)


# Every kind of file.

STARTS = (
    b"", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY\x01\x00", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0",
    b"\x1f\x8b\x08\x00", b"\x00\x00\x08\x03", b"\x80\x02", b"\x80\x04}",
)  # fmt: skip
ENDINGS = ("", ".npz", ".npy", ".png", ".jpg", ".gz", ".bin")


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STARTS), st.binary(max_size=200), st.sampled_from((b"", b".")), st.sampled_from(ENDINGS))
def test_random_bytes_are_refused_and_never_crash(
    tmp_path: Path, start: bytes, data: bytes, end: bytes, ending: str
) -> None:
    pytest.importorskip("PIL", reason="pictures need Pillow")
    path = written(tmp_path / f"x{ending}", start + data + end)
    with pytest.raises(BadInput) as caught:
        read_images(path)
    assert str(path) in str(caught.value)
    np.save(tmp_path / "i.npy", GREY)
    with pytest.raises(BadInput):
        read_images(tmp_path / "i.npy", labels=path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = data.draw(
        st.sampled_from([
            idx(GREY), gzip.compress(idx(GREY), mtime=0), cifar_binary(COLOUR, [1] * 4), python2_batch(COLOUR[:1], [3]),
        ])
    )  # fmt: skip
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(300, len(content) - 1)))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    try:
        found = read_images(written(tmp_path / "x", bytes(content)))
    except BadInput as error:
        assert "x: " in str(error)
    else:
        assert found.pixels.dtype == np.uint8
        assert found.pixels.size


def test_formats_do_not_claim_each_other_s_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY)
    np.savez(tmp_path / "a.npz", images=GREY)
    files = {
        ".npz": (tmp_path / "a.npz").read_bytes(),
        ".npy": (tmp_path / "a.npy").read_bytes(),
        "IDX, compressed": gzip.compress(idx(GREY)),
        "IDX": idx(GREY),
        "CIFAR python batch": python2_batch(COLOUR, [1] * 4),
        "CIFAR binary batch": cifar_binary(COLOUR, [1] * 4),
    }
    for name, data in files.items():
        assert [kind.name for kind in FORMATS if kind.fits(data)] == [name]
