"""Vendors' files: read through bioio where it is, else told which plug-in reads them."""

import numpy as np
import pytest

from knitcore.errors import FileError
from knitcore.files import read_image, write_image


@pytest.mark.parametrize(
    ("head", "name", "plugin"),
    [
        (b"ZISRAWFILE\0\0", "Zeiss CZI", "bioio-czi"),
        (b"\xda\xce\xbe\x0a", "Nikon ND2", "bioio-nd2"),
        (b"p\0\0\0", "Leica LIF", "bioio-lif"),
        (b"\xd0\xcf\x11\xe0", "Olympus OIB", "bioio-bioformats"),
        (b"\x89HDF\r\n", "HDF5", "bioio-imaris"),
    ],
)
def test_the_package_that_reads_it_is_named(tmp_path, monkeypatch, head, name, plugin):
    (tmp_path / "a.dat").write_bytes(head + bytes(100))
    monkeypatch.setattr("knitcore.vendor.find_spec", lambda name: None)
    with pytest.raises(FileError) as told:
        read_image(tmp_path / "a.dat")
    assert f"is a {name}" in str(told.value)
    assert f"pip install 'napari-knitworks[vendor]' {plugin}" in str(told.value)


@pytest.fixture
def czi(tmp_path):
    """A CZI of two channels, written by Zeiss' own library."""
    pytest.importorskip("bioio_czi")
    czi = pytest.importorskip("pylibCZIrw.czi")
    data = np.random.default_rng(0).integers(0, 4000, (2, 3, 48, 64), dtype=np.uint16)
    with czi.create_czi(str(tmp_path / "a.czi")) as document:
        for c, z in np.ndindex(2, 3):
            document.write(data=data[c, z][..., None], plane={"C": c, "Z": z, "T": 0})
        document.write_metadata(
            document_name="a",
            channel_names={0: "DAPI", 1: "GFP"},
            scale_x=0.2e-6,
            scale_y=0.2e-6,
            scale_z=1e-6,
        )
    return tmp_path / "a.czi", data


@pytest.mark.filterwarnings("ignore")
def test_a_zeiss_czi(czi):
    path, data = czi
    notes = []
    image = read_image(path, on_note=notes.append)
    assert image.axes == "CZYX"
    assert (image.data == data).all()
    assert image.channel_names == ("DAPI", "GFP")
    assert image.pixel_size == pytest.approx({"Z": 1.0, "Y": 0.2, "X": 0.2})
    assert set(image.unit.values()) == {"micrometer"}
    assert "written in another format" in notes[0].text
    again = read_image(write_image(image, path.with_name("b.ome.tif")))
    assert again.channel_names == image.channel_names
    assert again.pixel_size == pytest.approx(image.pixel_size)
    with pytest.raises(FileError, match=r"holds 1 image\(s\), no number 1"):
        read_image(path, series=1)


@pytest.mark.filterwarnings("ignore")
def test_a_czi_cut_short(czi):
    path, _ = czi
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FileError, match=r"a\.czi: bioio-czi cannot read it"):
        read_image(path)
