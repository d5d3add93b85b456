"""Real pictures come in whole, in order and on white."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nas import NasError, bundled
from nas.errors import ModelError
from nas.quality import Clip, load_captions, load_pictures
from nas.quality._pictures import picture_batches, read_sheet


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name, side in (("b.png", 4), ("a.png", 4), ("c.PNG", 6), ("d.png", 4)):
        Image.fromarray(random.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)).save(
            tmp_path / name, format="PNG"
        )
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_files_come_by_name_in_batches_of_one_size(folder):
    batches = list(picture_batches(folder, batch_size=8))
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 4, 5), (1, 3, 6, 7), (1, 3, 4, 5)]
    expected = np.asarray(Image.open(folder / "a.png")) / 255
    np.testing.assert_allclose(batches[0][0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert [len(batch) for batch in picture_batches(str(folder), batch_size=1)] == [1] * 4


def test_transparent_pictures_lie_on_white(tmp_path):
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.full((2, 2), 51, dtype=np.uint8)).save(tmp_path / "b.png")
    ((transparent, grey),) = picture_batches(tmp_path, batch_size=2)
    assert transparent[:, 0, 0].tolist() == [1, 0, 0]
    assert (transparent[:, 1] == 1).all()
    assert grey.unique().tolist() == pytest.approx([0.2])


def test_bytes_and_values_are_the_same_pictures():
    pictures = np.random.default_rng(1).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    values = torch.from_numpy(pictures).permute(0, 3, 1, 2).double() / 255
    for one, two in zip(picture_batches(pictures, batch_size=2), picture_batches(values, batch_size=2), strict=True):
        torch.testing.assert_close(one, two)
        assert one.dtype == torch.float32


@pytest.mark.parametrize(
    ("pictures", "sentence"),
    [
        (np.zeros((2, 4, 4, 3)), "must be bytes"),
        (np.zeros((0, 4, 4, 3), dtype=np.uint8), "must be bytes"),
        (torch.zeros(2, 4, 4, 3), "must be values from 0 to 1"),
        (torch.full((2, 3, 4, 4), 2.0), "outside 0 to 1"),
        (torch.full((2, 3, 4, 4), torch.nan), "outside 0 to 1"),
        ("no/such/folder", "no folder of pictures"),
    ],
)
def test_what_are_no_pictures(pictures, sentence):
    with pytest.raises(NasError, match=sentence):
        list(picture_batches(pictures, batch_size=2))


def test_an_empty_folder_and_a_damaged_picture(tmp_path):
    with pytest.raises(NasError, match="holds no picture"):
        list(picture_batches(tmp_path, batch_size=2))
    (tmp_path / "a.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(NasError, match=r"a\.png is not a picture"):
        list(picture_batches(tmp_path, batch_size=2))


def test_the_bundled_pictures_belong_to_their_captions():
    """CLIP finds the caption of a picture among those of the split far more often than by chance."""
    pictures, captions = load_pictures("emoji", "validation"), load_captions("emoji", "validation")
    assert pictures.shape == (len(captions), 64, 64, 3)
    clip = Clip.load(bundled("emoji") / "clip")
    chosen = slice(100, 160)
    images = clip.embed_images(torch.from_numpy(pictures[chosen]).permute(0, 3, 1, 2) / 255)
    similar = images @ clip.embed_texts(captions[chosen]).T
    ranks = (similar > similar.diagonal()[:, None]).sum(1)
    assert ranks.float().mean() < 15


def test_missing_or_wrong_sheets(tmp_path):
    with pytest.raises(ModelError, match="no pictures called 'train'; there is test, validation"):
        load_pictures("emoji", "train")
    for name in ("pictures", "captions"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (40, 4)).save(tmp_path / "pictures" / "test.png")
    (tmp_path / "captions" / "test.json").write_text(json.dumps([{"caption": "a"}] * 33))
    assert read_sheet(tmp_path, "test").shape == (33, 2, 2, 3)
    (tmp_path / "captions" / "test.json").write_text(json.dumps([{"caption": "a"}] * 50))
    with pytest.raises(ModelError, match="40 places for 50 captions"):
        read_sheet(tmp_path, "test")
