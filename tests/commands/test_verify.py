"""`contramask verify`: an untouched store passes, one changed byte does not."""

from pathlib import Path

from contramask.cli import main
from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig


def test_an_altered_store_is_found_out(tmp_path: Path, capsys) -> None:
    config = DatasetConfig(scenes=ScenesConfig(num_train=20, num_val=4))
    folder = build_dataset(config, tmp_path).store.folder
    assert main(["verify", str(folder)]) == 0
    assert "20 train, 4 val images are as they were built" in capsys.readouterr().out
    with (folder / "val" / "images.npy").open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    assert main(["verify", str(folder)]) == 1
    assert "was changed after it was built" in capsys.readouterr().err
