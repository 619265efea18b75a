"""Image files: what is read, and that everything else is one clear message."""

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bnhw.dtypes import Array
from bnhw.errors import BadInput
from bnhw.image_files import content
from bnhw.images import fit_pixels, read_images

PIXELS = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
LABELS = np.array([7, 0], np.int32)


def npy(shape: tuple[int, ...], *, descr: str = "|u1", data: bytes = b"", version: int = 1) -> bytes:
    """A `.npy` file with a header that need not be true."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes((version, 0)) + len(header).to_bytes(2 * version, "little") + header + data


def npz(path: Path, **members: bytes) -> Path:
    """A compressed `.npz` of given bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# What is read.


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)), st.booleans(), st.booleans())
def test_images_are_read_as_they_were_saved(tmp_path: Path, pixels: Array, by_columns: bool, compressed: bool) -> None:
    stored = np.asfortranarray(pixels) if by_columns else pixels
    np.save(tmp_path / "i.npy", stored)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "i.npz", images=stored)
    for name in ("i.npy", "i.npz"):
        found = read_images(tmp_path / name)
        np.testing.assert_array_equal(found.pixels, pixels)
        assert found.pixels.dtype == np.uint8
        assert found.labels is None


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("test_images", "test_labels")])
def test_labels_come_with_the_images(tmp_path: Path, images: str, labels: str) -> None:
    members: dict[str, Any] = {images: PIXELS, labels: LABELS.astype(np.uint8), "train_images": PIXELS[:0]}
    np.savez(tmp_path / "i.npz", **members)
    found = read_images(tmp_path / "i.npz")
    assert found.labels is not None
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [7, 0]


@pytest.mark.parametrize("version", [1, 2])
def test_both_kinds_of_header_are_read(tmp_path: Path, version: int) -> None:
    path = written(tmp_path / "i.npy", npy((2, 3, 4, 3), data=PIXELS.tobytes(), version=version))
    np.testing.assert_array_equal(read_images(path).pixels, PIXELS)


def test_labels_of_their_own_file_replace_those_that_come_with_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=PIXELS, labels=LABELS + 1)
    np.save(tmp_path / "l.npy", LABELS)
    np.savez(tmp_path / "l.npz", labels=LABELS)
    np.savez(tmp_path / "t.npz", test_labels=LABELS, train_labels=LABELS + 1)
    for name in ("l.npy", "l.npz", "t.npz"):
        found = read_images(tmp_path / "i.npz", labels=tmp_path / name)
        assert found.labels is not None
        assert found.labels.tolist() == [7, 0]


@pytest.mark.parametrize(("prefix", "labels"), [("{}_images", "{}_labels"), ("x_{}", "y_{}")])
def test_training_and_test_images_of_one_file_are_told_apart(tmp_path: Path, prefix: str, labels: str) -> None:
    members: dict[str, Any] = {prefix.format("train"): PIXELS[:1], labels.format("train"): LABELS[:1]}
    np.savez(tmp_path / "one.npz", **members)
    members |= {prefix.format("test"): PIXELS, labels.format("test"): LABELS}
    np.savez(tmp_path / "both.npz", **members)
    assert len(read_images(tmp_path / "both.npz").pixels) == 2
    assert len(read_images(tmp_path / "both.npz", split="train").pixels) == 1
    with pytest.raises(BadInput, match=rf"one\.npz: has {prefix.format('train')}, but no test images"):
        read_images(tmp_path / "one.npz")


def test_skip_and_limit_take_images_and_labels_alike(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=np.arange(10, dtype=np.uint8).reshape(10, 1, 1), labels=np.arange(10))
    for skip, limit, expected in ((0, None, range(10)), (3, 2, (3, 4)), (8, 5, (8, 9)), (0, 1, (0,))):
        part = read_images(tmp_path / "i.npz", skip=skip, limit=limit)
        assert part.labels is not None
        assert part.pixels[:, 0, 0].tolist() == part.labels.tolist() == list(expected)
    with pytest.raises(BadInput, match="--skip 10 leaves none of its 10 images"):
        read_images(tmp_path / "i.npz", skip=10)


# What is refused.


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS.astype(np.float32) / 255, r"images are float32, 0\.0 to 0\.278.*; uint8 pixels 0\.\.255 are expected"),
        (PIXELS.astype(np.float64), r"images are float64, 0\.0 to 71\.0; uint8"),
        (PIXELS.astype(np.int16) - 3, r"images are int16, -3 to 68; uint8"),
        (PIXELS > 9, "images are bool; uint8"),
        (PIXELS[0, 0, 0], r"images have the shape \(3,\); \(N, H, W, C\), \(N, H, W\) or flat \(N, features\) is"),
        (PIXELS[..., None], r"images have the shape \(2, 3, 4, 3, 1\)"),
        (PIXELS[:0], r"images have the shape \(0, 3, 4, 3\)"),
        (PIXELS[:, :0], r"images have the shape \(2, 0, 4, 3\)"),
        (np.uint8(3), r"images have the shape \(\)"),
    ],
)
def test_pixels_of_another_kind_are_refused(tmp_path: Path, array: Array, message: str) -> None:
    np.save(tmp_path / "i.npy", array)
    np.savez(tmp_path / "i.npz", images=array)
    for name in ("i.npy", "i.npz"):
        with pytest.raises(BadInput, match=message) as caught:
            read_images(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize(
    "labels",
    [np.arange(3), np.zeros(2), np.zeros((2, 1), np.int64), np.array(["a", "b"]), np.array([True, False])],
)
def test_labels_of_another_kind_or_number_are_refused(tmp_path: Path, labels: Array) -> None:
    np.savez(tmp_path / "i.npz", images=PIXELS, labels=labels)
    np.save(tmp_path / "p.npy", PIXELS)
    np.save(tmp_path / "l.npy", labels)
    with pytest.raises(BadInput, match=r"labels are .* of shape .*; 2 integers are expected, one an image"):
        read_images(tmp_path / "i.npz")
    with pytest.raises(BadInput, match="2 integers are expected"):
        read_images(tmp_path / "p.npy", labels=tmp_path / "l.npy")


def test_files_that_are_not_there_or_of_another_kind_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", PIXELS)
    with pytest.raises(BadInput, match=r"i\.npz: no such file; images are expected as \.npz"):
        read_images(tmp_path / "i.npz")
    with pytest.raises(BadInput, match=r"l\.npy: no such file; labels are expected as"):
        read_images(tmp_path / "p.npy", labels=tmp_path / "l.npy")
    with pytest.raises(BadInput, match=r"cannot be read \(File name too long"):
        read_images(tmp_path / ("n" * 300 + ".npz"))
    with pytest.raises(
        BadInput, match=r"i\.bmp: 2 bytes that begin with '42 4d' are of no known kind; expected is one"
    ):
        read_images(written(tmp_path / "i.bmp", b"BM"))
    with pytest.raises(BadInput, match=r"l\.png: is a PNG or JPEG file; labels of their own are expected as \.npz"):
        read_images(tmp_path / "p.npy", labels=written(tmp_path / "l.png", b"x"))


def test_archives_without_images_or_labels_say_how_to_save_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", pictures=PIXELS)
    np.save(tmp_path / "p.npy", PIXELS)
    with pytest.raises(BadInput, match=r"has no array 'images'; save it with numpy.savez\(path, images=...\)"):
        read_images(tmp_path / "x.npz")
    with pytest.raises(BadInput, match="has no array 'labels'"):
        read_images(tmp_path / "p.npy", labels=tmp_path / "x.npz")


class Trap:
    """An object that would show that it was unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


def test_pickled_objects_are_refused_and_never_loaded(tmp_path: Path) -> None:
    objects = np.array([Trap(), Trap()], object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", images=objects)
    np.savez(tmp_path / "l.npz", images=PIXELS, labels=objects)
    written(tmp_path / "p.npy", pickle.dumps(Trap()))
    for name in ("o.npy", "o.npz", "l.npz"):
        with pytest.raises(BadInput, match="it holds pickled Python objects, which are never loaded"):
            read_images(tmp_path / name)
    with pytest.raises(BadInput, match=r"p\.npy: .* it asks for 'test_images\.spring', which is never loaded"):
        read_images(tmp_path / "p.npy")
    assert not Trap.sprung


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = npz(tmp_path / "bomb.npz", images=npy((4, 1000, 1000), data=bytes(4_000_000)))
    assert bomb.stat().st_size < 10_000
    assert len(read_images(bomb).pixels) == 4
    monkeypatch.setattr(content, "MAX_IMAGE_BYTES", 1_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    with pytest.raises(BadInput, match=r"unpacks to 4000128 bytes, at most 1000000 are read; split the file"):
        read_images(bomb)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "i.npy", PIXELS)
    monkeypatch.setattr(content, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(BadInput, match="200 bytes, at most 100 are read"):
        read_images(tmp_path / "i.npy")


@pytest.mark.parametrize(
    "shape", [(10**13, 8, 8, 1), (3 * 10**8, 8, 8, 1), (2**62, 8, 8, 4), (2**31, 2**31, 4), (-1, 8, 8, 1), (3, 1, 1)]
)
def test_a_header_that_claims_more_than_the_file_holds_is_refused_without_memory_for_it(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    message = r"its header says uint8 .*, behind it are 2 bytes"
    with pytest.raises(BadInput, match=message):
        read_images(npz(tmp_path / "i.npz", images=npy(shape, data=b"xx")))
    with pytest.raises(BadInput, match=message):
        read_images(written(tmp_path / "i.npy", npy(shape, data=b"xx")))


def test_archives_and_arrays_with_the_others_ending_are_read_as_what_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS)
    np.save(tmp_path / "b.npy", PIXELS)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    (tmp_path / "b.npy").rename(tmp_path / "b")
    for name in ("a.npy", "b"):
        np.testing.assert_array_equal(read_images(tmp_path / name).pixels, PIXELS)


def test_damaged_beginnings_are_judged_by_the_ending(tmp_path: Path) -> None:
    for name, message in (
        ("i.npz", r"not a readable \.npz file .*; save it with numpy.savez"),
        ("i.npy", r"not a readable \.npy file .*; save it with numpy.save"),
        ("i.gz", "begins with 00 78; an IDX file of uint8 is expected"),
    ):
        with pytest.raises(BadInput, match=rf"{name}: {message}"):
            read_images(written(tmp_path / name, b"\0x"))


def test_encrypted_archives_and_unknown_compressions_are_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "i.npz", images=npy((1, 1, 1), data=b"x"))
    plain = path.read_bytes()
    directory = plain.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99)):  # flags: encrypted; method: none that exists
        changed = bytearray(plain)
        changed[directory + offset] = value
        changed[offset - 2] = value
        with pytest.raises(BadInput, match=r"not a readable \.npz file"):
            read_images(written(path, bytes(changed)))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_never_crashes(tmp_path: Path, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from(("npy", "npz", "compressed")))
    match kind:
        case "npy":
            np.save(buffer, PIXELS)
        case "npz":
            np.savez(buffer, images=PIXELS, labels=LABELS)
        case _:
            np.savez_compressed(buffer, images=PIXELS, labels=LABELS)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    path = written(tmp_path / f"i.{'npy' if kind == 'npy' else 'npz'}", bytes(content))
    try:
        found = read_images(path)
    except BadInput as error:
        assert str(path) in str(error)
    else:
        assert found.pixels.dtype == np.uint8
        assert 0 < found.pixels.size == math.prod(found.pixels.shape)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", images=PIXELS, labels=LABELS)
    np.save(tmp_path / "whole.npy", PIXELS)
    for ending in ("npz", "npy"):
        whole = (tmp_path / f"whole.{ending}").read_bytes()
        for length in range(len(whole)):
            with pytest.raises(BadInput):
                read_images(written(tmp_path / f"i.{ending}", whole[:length]))


# Images of a program's size.


def test_pixels_of_the_right_shape_are_taken_as_they_are() -> None:
    np.testing.assert_array_equal(fit_pixels(PIXELS, (3, 4, 3)), PIXELS)
    np.testing.assert_array_equal(fit_pixels(PIXELS[..., 0], (3, 4, 1)), PIXELS[..., :1])


def test_flat_features_are_the_pixels_row_by_row() -> None:
    grey = np.ascontiguousarray(PIXELS[..., 0])
    expected = grey.reshape(2, 1, 1, 12)
    for same in (grey, grey.reshape(2, 12), grey[..., np.newaxis], expected):
        np.testing.assert_array_equal(fit_pixels(same, (1, 1, 12)), expected)


@pytest.mark.parametrize(
    ("pixels", "shape", "message"),
    [
        (PIXELS.astype(np.int64), (3, 4, 3), "images are int64; uint8 pixels"),
        (PIXELS, (4, 3, 3), r"the shape \(2, 3, 4, 3\)"),
        (PIXELS, (3, 4, 1), r"the shape \(2, 3, 4, 3\)"),
        (PIXELS[..., 0], (3, 4, 3), r"the shape \(2, 3, 4\)"),
        (PIXELS, (4, 3, 3), "expected"),
        (PIXELS.transpose(0, 3, 1, 2), (3, 4, 3), "the order of the axes is another"),
        (PIXELS[..., 0], (1, 1, 13), r"the shape \(2, 3, 4\)"),
        (PIXELS, (1, 1, 36), r"the shape \(2, 3, 4, 3\)"),
        (PIXELS[:0], (3, 4, 3), "there are no images"),
    ],
)
def test_pixels_of_another_shape_are_refused(pixels: Array, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fit_pixels(pixels, shape)
