"""Folders of images."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from minidl.data import load
from minidl.data.folder import ImageFolder, read_image
from minidl.errors import ConfigError, DataError


def save(path, colour=(200, 30, 60), size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


@pytest.fixture
def animals(tmp_path):
    """Ten cats and ten dogs in one folder, and files that are not images."""
    for k in range(10):
        save(tmp_path / "cats" / f"{k}.png", (10 * k, 0, 0))
        save(tmp_path / "dogs" / "deeper" / f"{k}.jpg", (0, 10 * k, 0))
    (tmp_path / "cats" / "notes.txt").write_text("not an image")
    (tmp_path / "cats" / ".hidden.png").write_text("not an image")
    (tmp_path / "README").write_text("not a class")
    (tmp_path / ".git").mkdir()
    return tmp_path


def test_one_folder_is_split_by_seed(animals):
    train, test = load(f"folder:{animals}", split="train", size=16), load(f"folder:{animals}", split="test", size=16)
    assert (len(train), len(test)) == (16, 4)
    assert not set(train.files) & set(test.files)
    assert train.class_names == test.class_names == ("cats", "dogs")
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert load(f"folder:{animals}", split="val").files == test.files
    assert {tuple(load(f"folder:{animals}", split="test", seed=s).files) for s in range(5)} != {tuple(test.files)}
    images, labels = train.batch(np.arange(16))
    assert images.shape == (16, 3, 16, 16) and images.dtype == np.uint8 and train.image_shape == (3, 16, 16)
    for image, label in zip(images, labels, strict=True):
        assert image[1 - label].max() <= 3, "cats are red and dogs green; JPEG keeps colours within 3 levels"


@pytest.mark.parametrize("held_out", ["val", "test", "valid"])
def test_train_and_val_folders_are_taken_as_they_are(tmp_path, held_out):
    for split, count in (("train", 3), (held_out, 2)):
        for name in ("a", "b"):
            for k in range(count):
                save(tmp_path / split / name / f"{k}.png")
    assert len(load(f"folder:{tmp_path}")) == 6 and len(load(f"folder:{tmp_path}", split="test")) == 4
    save(tmp_path / "train" / "c" / "0.png")
    with pytest.raises(DataError, match="a class 'c' in one split only"):
        load(f"folder:{tmp_path}")


def test_resize_and_cut(tmp_path):
    """The left third is red, the middle green, the right blue: the cut keeps the middle."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    for k in range(3):
        pixels[:, 30 * k : 30 * (k + 1), k] = 255
    Image.fromarray(pixels).save(tmp_path / "flag.png")
    image = read_image(tmp_path / "flag.png", size=(10, 10))
    assert image.shape == (3, 10, 10) and (image[1, :, 1:-1] == 255).all() and image[[0, 2], :, 1:-1].max() == 0
    assert read_image(tmp_path / "flag.png").shape == (3, 30, 90)
    assert read_image(tmp_path / "flag.png", size=(4, 20), resize=30).shape == (3, 4, 20)
    # Resized to 20 x 60, of which the middle 10 x 10 lies inside the green.
    assert (read_image(tmp_path / "flag.png", size=(10, 10), resize=20)[1] == 255).all()
    assert read_image(tmp_path / "flag.png", size=(10, 10), grayscale=True).shape == (1, 10, 10)


def test_the_cut_of_a_part_equals_the_cut_of_the_whole(tmp_path):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (50, 81, 3), dtype=np.uint8))
    picture.save(tmp_path / "noise.png")
    ours = read_image(tmp_path / "noise.png", size=(16, 20), resize=24)
    whole = np.asarray(picture.resize((39, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    # Pillow rounds the weights of a part by itself: one level.
    assert np.abs(ours.astype(int) - whole[:, 4:20, 9:29]).max() <= 1


def test_exif_orientation(tmp_path):
    picture = Image.fromarray(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(
        read_image(tmp_path / "turned.png", grayscale=True)[0], np.rot90(np.asarray(picture), -1)
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.linspace(0, 255, 24).reshape(4, 6)
    if mode == "I;16":
        picture = Image.fromarray((grey * 257).astype(np.uint16))
    elif mode in ("I", "F"):
        picture = Image.fromarray((grey * 257).astype(np.int32) if mode == "I" else grey.astype(np.float32))
    else:
        picture = Image.fromarray(grey.astype(np.uint8)).convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr", "I", "F") else "x.png")
    picture.save(path)
    image = read_image(path)
    assert image.shape == (3, 4, 6) and image.dtype == np.uint8
    if mode != "1":  # two levels, dithered
        # CMYK and YCbCr are kept in 8 bits each and round differently.
        assert np.abs(image - grey).max() <= 2


def damage(animals):
    """One of each: empty, not an image, cut off."""
    (animals / "cats" / "3.png").write_bytes(b"")
    (animals / "dogs" / "deeper" / "4.jpg").write_text("<html>404</html>")
    whole = save(animals / "dogs" / "cut.jpg", size=(300, 300))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(whole)
    whole.write_bytes(whole.read_bytes()[:5000])
    return whole


def test_unreadable_images_are_errors_by_name(animals):
    damage(animals)
    message = r"2 of 21 images in .*3\.png: is not a readable image \(the file is empty\).*4\.jpg.*skip_unreadable=True"
    with pytest.raises(DataError, match=message):
        load(f"folder:{animals}")


def test_an_image_cut_off_is_an_error_when_it_is_decoded(animals):
    cut = damage(animals)
    (animals / "cats" / "3.png").unlink()
    (animals / "dogs" / "deeper" / "4.jpg").unlink()
    dataset = load(f"folder:{animals}", test_fraction=0.01)
    with pytest.raises(DataError, match=r"cut\.jpg: cannot be decoded \(OSError: .*truncated"):
        dataset.read(cut)


def test_unreadable_images_can_be_skipped(animals):
    damage(animals)
    with pytest.warns(UserWarning, match=r"left out 3 of 21 images.*3\.png.*4\.jpg|left out 3 of 21 images"):
        dataset = load(f"folder:{animals}", skip_unreadable=True)
    assert len(dataset) == 18 - 4 and {path.name for path in dataset.unreadable} == {"3.png", "4.jpg", "cut.jpg"}
    assert len(dataset.batch(np.arange(len(dataset)))[0]) == len(dataset)
    for path in (animals / "cats").glob("*.png"):
        path.write_bytes(b"bad")
    with warnings.catch_warnings(), pytest.raises(DataError, match="class 'cats' .* has no readable image"):
        warnings.simplefilter("ignore")
        load(f"folder:{animals}", skip_unreadable=True)


def test_a_bomb_is_refused_before_it_is_decoded(animals):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (animals / "cats" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    with pytest.raises(DataError, match=r"bomb\.png: (60000 x 60000 pixels, more than max_pixels=64,000,000|.*Bomb)"):
        load(f"folder:{animals}")
    (animals / "cats" / "bomb.png").unlink()
    with pytest.raises(DataError, match="40 x 30 pixels, more than max_pixels=1,000"):
        load(f"folder:{animals}", max_pixels=1000)


def test_folders_that_are_not_data_sets(tmp_path):
    with pytest.raises(ConfigError, match="folder: which one"):
        load("folder:")
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load(f"folder:{tmp_path}/nowhere")
    with pytest.raises(DataError, match="has no sub-folders; expected one folder of images per class"):
        load(f"folder:{tmp_path}")
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match=r"cats has no images \(files ending in \.bmp"):
        load(f"folder:{tmp_path}")
    save(tmp_path / "cats" / "only.png")
    with pytest.raises(DataError, match="leaves no image for split 'test'"):
        load(f"folder:{tmp_path}", split="test")
    with pytest.raises(ConfigError, match="no split is called 'dev'"):
        ImageFolder(tmp_path, "dev")
    with pytest.raises(ConfigError, match="expected 1 <= size <= resize, got size=32 and resize=16"):
        ImageFolder(tmp_path, size=32, resize=16)
    with pytest.raises(ConfigError, match="no option is called 'sise'"):
        load(f"folder:{tmp_path}", sise=3)
