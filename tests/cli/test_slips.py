"""Answers to command lines that are not understood."""

from __future__ import annotations

import pytest

from foretrain.cli.main import main


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("predict my.csv", "No such command 'predict'. Here that is `foretrain forecast`."),
        ("fine-tune my.csv", "Here that is `foretrain quick FILE`."),
        ("my.new.csv", "No such command 'my.new.csv'. To forecast a file: `foretrain forecast my.new.csv`."),
        ("doctr", "No such command 'doctr'. Did you mean 'doctor'?"),
        ("config get", "No such command 'get'. There are list, copy, show, schema, import."),
        ("forecast my.csv --horizon 3", "No such option: --horizon. Here that is --prediction-length."),
        ("train debug --steps 3", "No such option: --steps. Here that is --max-steps or --prediction-length."),
        ("forecast my.csv --predicton-length 3", "Did you mean '--prediction-length' or '--context-length'?"),
        ("forecast my.csv --output x.csv", "Here that is --out."),
        ("train debug --output x", "Did you mean '--output-dir'?"),
        ("train debug --epochs 3", "No such option: --epochs. Here that is training.epochs, a setting (KEY=VALUE)."),
        ("train debug --clip-grad 3", "Here that is training.clip_norm, a setting (KEY=VALUE)."),
        ("train debug --nothing 3", "No such option: --nothing. Settings are given as KEY=VALUE."),
        ("forecast runs/x my.csv --step 3", "A checkpoint is named by its folder: runs/NAME/checkpoints/step-"),
        ("evaluate tiny my.csv", "Missing option '--data'."),
        ("evaluate tiny my.csv", "shows how to call it. For example: `foretrain evaluate tiny --data my.csv`."),
        ("evaluate tiny --input my.csv", "No such option: --input. Here that is --data."),
        ("quick --data my.csv", "The data are named without an option. For example: `foretrain quick my.csv`."),
        ("quick my.csv more.csv", "Got unexpected extra argument(s) (more.csv)."),
    ],
)
def test_a_line_that_is_not_understood_names_what_was_meant(line, answer, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["foretrain", *line.split()])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    assert left.value.code == 2 and printed.out == "" and not list(tmp_path.iterdir())
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert answer in printed.err and "-h` shows how to call it." in printed.err
