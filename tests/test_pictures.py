"""PNG and JPEG pictures, one by one, in folders and in `.npz` files."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from image_bytes import Pixels, picture, random_pixels

from bnhw.errors import BadInput
from bnhw.image_files import content, folders, pictures
from bnhw.image_files.pictures import Picture, Pictures, decode_pictures
from bnhw.image_files.source import read_stored
from bnhw.images import Images, read_images

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")

COLOUR = random_pixels(6, 4, 5, 3)
GREY = random_pixels(6, 4, 5, seed=1)


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    """Write `files`, by their paths in `root`."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def named_jpegs(path: Path, encoded: list[bytes]) -> Path:
    """Pictures in one `.npz` file."""
    offsets = np.cumsum([0, *map(len, encoded)])
    np.savez(path, jpeg_bytes=np.frombuffer(b"".join(encoded), np.uint8), offsets=offsets, labels=range(len(encoded)))
    return path


def with_labels(found: Images) -> list[int]:
    assert found.labels is not None
    labels: list[int] = found.labels.tolist()
    return labels


# What is read.


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)))
    | hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))
)
def test_a_png_is_read_as_it_was_saved(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "x").write_bytes(picture(pixels))
    np.testing.assert_array_equal(read_images(tmp_path / "x").pixels, pixels.reshape(1, *pixels.shape[:2], -1))


def test_a_jpeg_is_read_as_pillow_decodes_it(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(picture(COLOUR[0], "JPEG", quality=75))
    with Image.open(tmp_path / "x.jpg") as image:
        np.testing.assert_array_equal(read_images(tmp_path / "x.jpg").pixels[0], np.asarray(image))


def test_palettes_are_looked_up_and_bits_are_black_and_white(tmp_path: Path) -> None:
    indexed = Image.fromarray(COLOUR[0]).quantize(20)
    indexed.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_images(tmp_path / "p.png").pixels[0], np.asarray(indexed.convert("RGB")))
    Image.fromarray(GREY[0] > 127).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_images(tmp_path / "b.png").pixels[0, ..., 0], np.where(GREY[0] > 127, 255, 0))


def test_sub_folders_are_classes_and_come_in_turn(tmp_path: Path) -> None:
    names = ("b/2.png", "b/10.png", "a/z.png", "c/1.png", "c/0.png", "c/2.png")
    root = folder_of(tmp_path / "set", dict(zip(names, map(picture, COLOUR), strict=True)))
    folder_of(root, {"README.md": b"", ".hidden/x.png": b"", "a/Thumbs.db": b""})
    stored = read_stored(root, "train")
    assert stored.classes == ("a", "b", "c")
    found = read_images(root)
    assert with_labels(found) == [0, 1, 2, 1, 2, 2]
    np.testing.assert_array_equal(found.pixels, COLOUR[[2, 1, 4, 0, 3, 5]])
    part = read_images(root, skip=1, limit=2)
    assert with_labels(part) == [1, 2]
    np.testing.assert_array_equal(part.pixels, COLOUR[[1, 4]])


def test_sub_folders_with_numbers_for_names_are_labels(tmp_path: Path) -> None:
    names = ("10/a.png", "9/a.png", "011/a.png", "9/b.png")
    root = folder_of(tmp_path / "set", dict(zip(names, map(picture, COLOUR), strict=False)))
    found = read_images(root)
    assert with_labels(found) == [11, 10, 9, 9]
    np.testing.assert_array_equal(found.pixels, COLOUR[[2, 0, 1, 3]])
    assert read_stored(root, "test").classes == tuple(map(str, range(12)))


def test_pictures_alone_have_no_labels_and_come_by_name(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "set", {f"{name}.PNG": picture(pixels) for name, pixels in zip("cab", GREY, strict=False)}
    )
    found = read_images(root)
    assert found.labels is None
    np.testing.assert_array_equal(found.pixels, GREY[[1, 2, 0], ..., np.newaxis])


def test_a_grey_picture_among_coloured_ones_has_three_equal_colours(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", {"a.png": picture(GREY[0]), "b.png": picture(COLOUR[0])})
    np.testing.assert_array_equal(read_images(root).pixels, [np.repeat(GREY[0, ..., np.newaxis], 3, axis=2), COLOUR[0]])


@pytest.mark.parametrize("test", ["test", "val"])
def test_training_and_test_folders_are_told_apart(tmp_path: Path, test: str) -> None:
    root = folder_of(
        tmp_path / "set",
        {"train/a/x.png": picture(GREY[0]), "train/b/x.png": picture(GREY[1]), f"{test}/a/x.png": picture(GREY[2]),
         f"{test}/b/x.png": picture(GREY[3])},
    )  # fmt: skip
    np.testing.assert_array_equal(read_images(root, split="train").pixels[..., 0], GREY[:2])
    np.testing.assert_array_equal(read_images(root, split="test").pixels[..., 0], GREY[2:4])
    assert read_stored(root, "test").split == "test"
    folder_of(root, {"train/c/x.png": picture(GREY[4])})
    with pytest.raises(BadInput, match=f"train and {test} have other sub-folders; give both the same classes"):
        read_images(root)


def test_jpegs_in_one_npz(tmp_path: Path) -> None:
    encoded = [picture(pixels, "JPEG") for pixels in random_pixels(200, 8, 8, 3)]
    found = read_images(named_jpegs(tmp_path / "x.npz", encoded))
    assert with_labels(found) == list(range(200))
    for data, pixels in zip(encoded, found.pixels, strict=True):
        (tmp_path / "one.jpg").write_bytes(data)
        np.testing.assert_array_equal(read_images(tmp_path / "one.jpg").pixels[0], pixels)


def test_only_the_pictures_asked_for_are_decoded(tmp_path: Path) -> None:
    encoded = [picture(COLOUR[0]), b"damaged", picture(COLOUR[1])]
    for source in (
        named_jpegs(tmp_path / "x.npz", encoded),
        folder_of(tmp_path / "set", {f"{index}.png": data for index, data in enumerate(encoded)}),
    ):
        assert len(read_images(source, limit=1).pixels) == 1
        np.testing.assert_array_equal(read_images(source, skip=2).pixels, COLOUR[1:2])
        with pytest.raises(BadInput, match=r"is neither a PNG nor a JPEG picture, or a damaged one"):
            read_images(source)


# What is refused.


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.png": picture(COLOUR[0]), "b.png": picture(COLOUR[0, :3])},
            r"b\.png: 5 x 3 pixels, but .*a\.png has 5 x 4",
        ),
        (
            {"a.png": picture(COLOUR[0]), "b.bmp": b"BM"},
            r"b\.bmp: is neither a PNG nor a JPEG file by its name; move it",
        ),
        ({"a.png": picture(COLOUR[0]), "c/b.png": picture(COLOUR[0])}, r"a\.png: is a picture beside sub-folders"),
        (
            {"c/a.png": picture(COLOUR[0]), "d/x.txt": b""},
            r"d: holds no PNG or JPEG picture; every sub-folder is a class",
        ),
        ({"c/a.png": picture(COLOUR[0]), "c/d/x.png": b""}, r"d: is a folder inside the folder of a class"),
        ({"a.png": picture(COLOUR[0])[:-40]}, r"a\.png: not a readable PNG or JPEG picture \("),
        ({"a.png": b"GIF89a"}, r"a\.png: is neither a PNG nor a JPEG picture"),
        ({"a.png": picture(random_pixels(4, 5, 4))}, r"mode RGBA; 8-bit grey or RGB without transparency"),
        ({"a.png": picture(COLOUR[0], transparency=(1, 2, 3))}, r"RGB with transparency; 8-bit grey or RGB"),
        ({"a.png": picture(GREY[0].astype(np.uint16))}, r"mode I;16; 8-bit grey or RGB"),
        (
            {"1/a.png": picture(GREY[0]), "01/a.png": picture(GREY[0])},
            r"set: sub-folders 01, 1 are no labels; each once",
        ),
        ({"100000/a.png": picture(GREY[0])}, r"set: sub-folders 100000 are no labels; each once, below 100000"),
        ({f"{'9' * 200}/a.png": picture(GREY[0])}, r"9: as a label it is too large; labels are smaller than 100000"),
        ({"train/c/a.png": picture(GREY[0]), "test/x.txt": b""}, r"test: holds no PNG or JPEG picture"),
    ],
)
def test_folders_that_cannot_be_read_say_why(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_images(folder_of(tmp_path / "set", files))


def test_a_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    for files in ({}, {"notes.txt": b""}, {"a/notes": b"", "b/notes": b""}):
        root = folder_of(tmp_path, files)
        with pytest.raises(
            BadInput, match=r"holds no test images that are known; put the unpacked files(.*\n)*.*pictur"
        ):
            read_images(root)


def test_links_out_of_the_folder_are_refused_and_not_followed(tmp_path: Path) -> None:
    outside = folder_of(tmp_path / "outside", {"x.png": picture(COLOUR[0]), "c/x.png": picture(COLOUR[0])})
    links = {
        "file": ("a.png", outside / "x.png"),
        "relative": ("a.png", Path("../outside/x.png")),
        "class": ("c", outside / "c"),
        "in a class": ("d/a.png", outside / "x.png"),
        "itself": ("a.png", Path("a.png")),
        "gone": ("a.png", tmp_path / "gone.png"),
    }
    for number, (name, target) in enumerate(links.values()):
        root = folder_of(tmp_path / str(number), {"d/inside.png": picture(COLOUR[0])})
        (root / name).symlink_to(target)
        with pytest.raises(BadInput, match=r"is a link that leads out of|cannot be read|is no regular file"):
            read_images(root)


def test_links_inside_of_the_folder_and_to_it_are_followed(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", {"a.png": picture(COLOUR[0])})
    (root / "b.png").symlink_to("a.png")
    (tmp_path / "link").symlink_to(root)
    assert len(read_images(tmp_path / "link").pixels) == 2


def test_devices_and_pipes_are_refused_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BadInput, match=r"a\.png: is no regular file; remove it"):
        read_images(tmp_path)
    with pytest.raises(BadInput, match="no such file"):
        read_images(tmp_path / "a.png")


def large_png(width: int, height: int) -> bytes:
    """A PNG of so many black pixels, in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


def test_pictures_that_decode_to_too_much_are_refused_by_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    for width, height in ((8193, 8192), (10**4, 10**4), (2**31 - 1, 2**31 - 1), (10**5, 10**4)):
        with pytest.raises(BadInput, match=r"pixels, at most 67108864 are decoded|exceeds limit"):
            read_images(folder_of(tmp_path / "one", {"a.png": large_png(width, height)}))
    monkeypatch.setattr(content, "MAX_IMAGE_BYTES", 100)
    monkeypatch.setattr(pictures, "_decode", None)
    root = folder_of(tmp_path / "set", {f"{index}.png": picture(COLOUR[0]) for index in range(2)})
    with pytest.raises(BadInput, match="set: 2 pictures decode to 120 bytes, at most 100 are read; take fewer"):
        read_images(root)
    assert not recwarn.list


def test_folders_of_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path, {f"{index}/a.png": picture(COLOUR[0]) for index in range(3)})
    monkeypatch.setattr(folders, "MAX_CLASSES", 2)
    with pytest.raises(BadInput, match="3 sub-folders, at most 2 classes are read"):
        read_images(root)
    monkeypatch.setattr(folders, "MAX_PICTURES", 2)
    with pytest.raises(BadInput, match="holds more than 2 files, which is the most that is read"):
        read_images(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": np.array([0, 5, 3, 9])}, "offsets do not rise from 0 to 9"),
        ({"offsets": np.array([1, 5, 6, 9])}, "offsets do not rise from 0 to 9"),
        ({"offsets": np.array([0, 5, 6, 10])}, "offsets do not rise from 0 to 9"),
        ({"offsets": np.array([-1, 5, 6, 9])}, "offsets do not rise from 0 to 9"),
        ({"offsets": np.array([0.0, 9])}, r"offsets is float64 of shape \(2,\); where each picture begins"),
        ({"offsets": np.array([0])}, r"offsets is int64 of shape \(1,\)"),
        ({"offsets": np.array([[0, 9]])}, r"offsets is int64 of shape \(1, 2\)"),
        ({"jpeg_bytes": np.zeros((3, 3), np.uint8)}, r"jpeg_bytes is uint8 of shape \(3, 3\)"),
        ({"jpeg_bytes": np.zeros(9)}, "jpeg_bytes is float64"),
        ({"labels": np.zeros(2, int)}, "3 integers are expected, one an image"),
        ({}, "picture 0: is neither a PNG nor a JPEG picture"),
    ],
)
def test_npz_files_of_jpegs_that_do_not_hold_together(tmp_path: Path, changes: dict[str, Pixels], message: str) -> None:
    arrays = {"jpeg_bytes": np.zeros(9, np.uint8), "offsets": np.array([0, 3, 6, 9]), "labels": np.arange(3)}
    np.savez(tmp_path / "x.npz", **(arrays | changes))  # type: ignore[arg-type]  # savez takes any array by name
    with pytest.raises(BadInput, match=message):
        read_images(tmp_path / "x.npz")
    if "offsets" not in changes:
        return
    np.savez(tmp_path / "x.npz", jpeg_bytes=arrays["jpeg_bytes"])
    with pytest.raises(BadInput, match="offsets is missing"):
        read_images(tmp_path / "x.npz")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pictures_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([picture(COLOUR[0]), picture(GREY[0], "JPEG"), picture(COLOUR[0], "JPEG")]))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    (tmp_path / "x.png").write_bytes(damaged[:cut])
    try:
        found = read_images(tmp_path / "x.png")
    except BadInput as error:
        assert "x.png: " in str(error)
    else:
        assert found.pixels.dtype == np.uint8
        assert found.pixels.ndim == 4


def test_a_picture_that_changes_between_header_and_pixels_is_refused() -> None:
    versions = iter([picture(COLOUR[0]), picture(random_pixels(4000, 4, 3))])
    changing = Picture(name="x.png", open=lambda: io.BytesIO(next(versions)))
    with pytest.raises(BadInput, match=r"x\.png: not a readable .*\(it has changed while it was read\)"):
        decode_pictures(Pictures(origin="set", items=(changing,)), 10**9)


def test_without_pillow_the_message_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(picture(COLOUR[0]))
    script = (
        "import sys\nfrom pathlib import Path\nsys.modules['PIL'] = None\n"
        "from bnhw.errors import MissingDependency\nfrom bnhw.images import read_images\n"
        "try:\n    read_images(Path(sys.argv[1]))\nexcept MissingDependency as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "x.png: reading PNG and JPEG needs Pillow, which is not installed" in done.stdout
    assert "pip install 'bnhw[images]'" in done.stdout
