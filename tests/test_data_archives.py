from __future__ import annotations

import hashlib
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision import datasets

from budgetnas.data import DataRequest, load_data
from budgetnas.data import download as download_module
from budgetnas.data.test_split import load_test
from budgetnas.errors import InputError

PER_CLASS = 4


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", PER_CLASS), ("t10k", 2)):
        labels = np.tile(np.arange(10), count)
        pixels = np.broadcast_to(labels[:, None, None] * 10, (len(labels), 28, 28))
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    return tmp_path


@pytest.fixture
def cifar_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny CIFAR-10 archive, with torchvision's checksums made to match it."""
    inside = tmp_path / "made" / "cifar-10-batches-py"
    inside.mkdir(parents=True)
    pixels = np.arange(3072, dtype=np.int64) % 251

    def dump(name: str, content: dict[str, Any]) -> str:
        (inside / name).write_bytes(pickle.dumps(content))
        return md5(inside / name)

    def batch(name: str) -> list[str]:
        labels = list(range(10))
        return [name, dump(name, {"data": np.stack([pixels + y for y in labels]).astype(np.uint8), "labels": labels})]

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch(f"data_batch_{n}") for n in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch")])
    names = [f"class {n}" for n in range(10)]
    meta = {**datasets.CIFAR10.meta, "md5": dump("batches.meta", {"label_names": names})}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(inside, inside.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    return archive


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_fashion_mnist_is_read_from_its_files(fashion: Path) -> None:
    data = load_data(DataRequest("fashion-mnist", data_dir=fashion))
    assert data.train.images.shape == (30, 1, 28, 28)
    assert (len(data.validation), len(data.all_train)) == (10, 40)
    assert (data.in_channels, data.resolution, data.flip, data.is_cifar10) == (1, 28, True, False)
    assert np.array_equal(data.train.images[:, 0, 5, 5], data.train.labels * 10)
    assert data.classes[9] == "Ankle boot"
    assert data.identity.name == "fashion-mnist"
    assert len(load_test(DataRequest("fashion-mnist", data_dir=fashion))) == 20


def test_the_hash_covers_the_test_files_too(fashion: Path) -> None:
    request = DataRequest("fashion-mnist", data_dir=fashion)
    before = load_data(request).identity
    file = fashion / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert load_data(request).identity.content_hash != before.content_hash


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_damaged_idx_file_is_named(fashion: Path, name: str) -> None:
    file = fashion / "FashionMNIST" / "raw" / name
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(InputError, match=r"FashionMNIST/raw are damaged"):
        load_data(DataRequest("fashion-mnist", data_dir=fashion))


def test_images_and_labels_must_be_as_many(fashion: Path) -> None:
    write_idx(fashion / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", np.tile(np.arange(10), 3))
    with pytest.raises(InputError, match="40 images, but 30 labels"):
        load_data(DataRequest("fashion-mnist", data_dir=fashion))


@pytest.mark.usefixtures("no_network")
def test_cifar10_is_unpacked_from_an_archive_put_there_by_hand(
    cifar_archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = DataRequest("cifar10", data_dir=cifar_archive.parent)
    data = load_data(request)
    assert data.all_train.images.shape == (50, 3, 32, 32)
    assert data.all_train.images[0, 1, 0, :3].tolist() == [(1024 + x) % 251 for x in range(3)]
    assert (data.is_cifar10, data.classes[3], data.notices) == (True, "class 3", ())
    assert load_data(request).identity == data.identity
    assert len(load_test(request)) == 10
    assert capsys.readouterr().out == ""


def test_cifar10_at_another_resolution_is_no_longer_the_original(cifar_archive: Path) -> None:
    data = load_data(DataRequest("cifar10", data_dir=cifar_archive.parent, resolution=16))
    assert data.train.images.shape[1:] == (3, 16, 16)
    assert not data.is_cifar10
    assert data.notices == ("50 images resized from 32x32 to 16x16",)


@pytest.mark.usefixtures("no_network")
def test_a_damaged_archive_is_named_with_both_checksums(cifar_archive: Path) -> None:
    cifar_archive.write_bytes(b"half an archive")
    with pytest.raises(InputError, match=rf"{cifar_archive} is damaged: its md5 is .* {datasets.CIFAR10.tgz_md5}"):
        load_data(DataRequest("cifar10", data_dir=cifar_archive.parent))


def test_a_damaged_unpacked_file_is_an_input_error(cifar_archive: Path) -> None:
    request = DataRequest("cifar10", data_dir=cifar_archive.parent)
    load_data(request)
    (cifar_archive.parent / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"")
    with pytest.raises(InputError, match=r"cifar-10-batches-py are damaged .*; delete that folder"):
        load_data(request)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("fashion-mnist", "FashionMNIST/raw/t10k-images-idx3-ubyte.gz"),
    ],
)
def test_without_internet_the_error_names_alternatives(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(InputError) as caught:
        load_data(DataRequest(name, data_dir=tmp_path))
    message = str(caught.value)
    assert "no network in this test" in message
    assert "--data digits" in message
    assert "--data folder:DIR" in message
    assert f"{tmp_path / file} (md5 " in message
    assert "\n" not in message


def test_a_host_that_never_answers_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_REQUEST_SECONDS", 0.3)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cifar-10-python.tar.gz"
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        start = time.monotonic()
        with pytest.raises(InputError, match=r"cannot be reached \(.*timed out"):
            load_data(DataRequest("cifar10", data_dir=tmp_path))
    assert time.monotonic() - start < 5


def test_a_name_server_that_never_answers_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(download_module, "_CHECK_SECONDS", 0.2)
    monkeypatch.setattr(download_module, "_ask", lambda _: release.wait(5) and "")
    with pytest.raises(InputError, match="no answer in"):
        load_data(DataRequest("cifar10", data_dir=tmp_path))
    release.set()


class _OnlyHead(BaseHTTPRequestHandler):
    """A host whose downloads break off."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"junk")

    def log_message(self, *_: object) -> None:
        pass


def test_a_download_that_breaks_off_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with HTTPServer(("127.0.0.1", 0), _OnlyHead) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(InputError, match="downloading or unpacking it failed"):
            load_data(DataRequest("cifar10", data_dir=tmp_path))
        server.shutdown()
    assert not (tmp_path / "cifar-10-python.tar.gz").exists()
    assert capsys.readouterr().out == ""


def test_a_data_dir_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--data-dir .*cannot be written"):
        load_data(DataRequest("cifar10", data_dir=tmp_path / "file" / "below"))


def test_digits_are_always_at_hand() -> None:
    data, test = load_data(DataRequest("digits")), load_test(DataRequest("digits", split_seed=5))
    assert (len(data.all_train), len(data.train), len(data.validation), len(test)) == (1438, 1294, 144, 359)
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert (data.in_channels, data.resolution, data.flip, data.is_cifar10) == (1, 8, False, False)
    assert (data.train.images.min(), data.train.images.max()) == (0, 255)
    assert np.array_equal(test.images, load_test(DataRequest("digits")).images)
    seen = {image.tobytes() for image in data.all_train.images}
    assert not any(image.tobytes() in seen for image in test.images)


def test_digits_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    scaled = (bunch.images.astype(np.int64) * 255 + 8) // 16
    content = scaled.astype(np.uint8).tobytes() + bunch.target.astype("<i8").tobytes()
    assert load_data(DataRequest("digits")).identity.content_hash == hashlib.sha256(content).hexdigest()


def test_digits_subsampled_and_resized() -> None:
    request = DataRequest("digits", subset=100, subset_eval=50, resolution=16, split_seed=2)
    data = load_data(request)
    assert (len(data.train), len(data.all_train), len(data.validation)) == (100, 100, 50)
    assert data.train.images.shape[1:] == (1, 16, 16)
    assert len(load_test(request)) == 50
    assert data.identity.label() == "digits, subset 100, evaluation subset 50, split seed 2"


def test_a_subset_leaves_the_validation_split_as_it_is_and_is_nested() -> None:
    whole = load_data(DataRequest("digits"))
    more, fewer = (load_data(DataRequest("digits", subset=count)) for count in (600, 200))
    assert np.array_equal(whole.validation.images, fewer.validation.images)
    large = {image.tobytes() for image in more.train.images}
    assert all(image.tobytes() in large for image in fewer.train.images)


def test_an_unused_data_dir_is_noticed(tmp_path: Path) -> None:
    notices = load_data(DataRequest("digits", data_dir=tmp_path)).notices
    assert any("--data-dir" in notice and "not used" in notice for notice in notices)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (DataRequest("cifar11"), r"--data 'cifar11': must be one of cifar10, .*; did you mean cifar10\?"),
        (DataRequest("FashionMNIST"), r"did you mean fashion-mnist\?"),
        (DataRequest(""), "must be one of"),
        (DataRequest("."), r"write --data folder:\."),
        (DataRequest("folder:"), "names no folder"),
        (DataRequest("digits", resolution=3), "--resolution 3: must be from 4 to 512"),
        (DataRequest("digits", resolution=513), "--resolution 513"),
        (DataRequest("digits", subset=0), "--subset 0: must be a whole number of at least 1"),
        (DataRequest("digits", subset=9), "--subset 9: must be at least 10, an image for each class"),
        (DataRequest("digits", subset=1295), "--subset 1295: must be at most the 1,294 images"),
        (DataRequest("digits", subset_eval=-1), "--subset-eval -1"),
        (DataRequest("digits", subset_eval=145), "at most the 144 images of the validation split"),
        (DataRequest("digits", split_seed=-1), "--split-seed -1"),
    ],
)
def test_bad_requests_name_the_rule(request_: DataRequest, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(request_)


def test_a_subset_of_all_is_all() -> None:
    assert len(load_data(DataRequest("digits", subset=1294)).train) == 1294


def test_the_test_split_has_its_own_bound() -> None:
    with pytest.raises(InputError, match="at most the 359 images of the test split"):
        load_test(DataRequest("digits", subset_eval=360))


def test_importing_the_data_package_imports_no_heavy_library() -> None:
    code = (
        "import sys, budgetnas.data, budgetnas.data.test_split; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'optuna', 'sklearn')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
