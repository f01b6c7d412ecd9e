"""What a command line that was not understood was probably meant to be: names of other programs, and examples."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection
from pathlib import Path

from foretrain.hints import NAMES_ELSEWHERE

# Verbs of other programs, and what does the same here
VERBS_ELSEWHERE = (
    ("predict prediction infer inference", "forecast"),
    ("fit finetune fine-tune tune learn", "quick FILE"),
    ("pretrain run", "train CONFIG"),
    ("auto autotrain", "quick FILE"),
    ("eval test backtest validate validation compare", "evaluate MODEL --data FILE"),
    ("suites leaderboard self-check", "benchmark --self-check"),
    ("metrics", "score"),
    ("plot", "forecast FILE --plot FILE.png"),
    ("save convert merge", "export"),
    ("check info env diagnose", "doctor"),
    ("init new", "config copy"),
    ("import read load", "data import"),
    ("generate synth", "data generate"),
    ("inspect describe", "data inspect"),
    ("list configs", "config list"),
    ("copy", "config copy"),
    ("show", "config show"),
    ("schema", "config schema"),
)
# Options of other programs, and ours, of which those are named that the verb has
OPTIONS_ELSEWHERE = (
    ("steps", "--max-steps --prediction-length"),
    (
        "horizon length h n fh periods pred-len forecast-length forecast-horizon prediction-horizon predict-length",
        "--prediction-length",
    ),
    ("iterations iters max-iters num-steps train-steps", "--max-steps"),
    ("context lookback history seq-len input-size context-window window lookback-window", "--context-length"),
    ("output output-file outfile out-file out-dir output-dir output-folder save save-to o dest", "--out --output-dir"),
    ("column value value-column values target-column y label", "--target"),
    ("date date-column datetime time time-column timestamp timestamps ds", "--timestamp-column"),
    ("id item item-id item-column series series-id group group-by unique-id", "--id-column"),
    ("frequency period", "--freq"),
    ("quantiles levels quantile", "--quantile-levels"),
    ("samples n-samples draws", "--num-samples"),
    ("windows n-windows folds origins", "--num-windows"),
    ("lr rate", "--learning-rate"),
    ("time time-limit minute duration budget", "--minutes"),
    ("gpu cuda cpu accelerator", "--device"),
    ("precision bf16 fp16 torch-dtype", "--dtype"),
    ("checkpoint ckpt resume-from", "--resume-from-checkpoint"),
    ("model model-name pretrained base init-from", "--model --model-id"),
    ("season season-length m", "--seasonality"),
    ("baseline compare compare-with vs", "--against"),
    ("covariates features regressors", "--past-covariates"),
    ("future-covariates future-data exog known", "--future --known-covariates"),
    ("picture figure chart graph image", "--plot"),
    ("sep delimiter", "--separator"),
)
# Options that stand for something that is no option here, whatever the verb
_IN_OTHER_WORDS = {
    "step": "A checkpoint is named by its folder: runs/NAME/checkpoints/step-00000200, runs/NAME/best or "
    "runs/NAME/latest.",
    "best": "A checkpoint is named by its folder: runs/NAME/best.",
    "last": "A checkpoint is named by its folder: runs/NAME/latest.",
    "resume": "Repeat the interrupted command to continue it.",
    "force": "Nothing is overwritten here: name another folder or file.",
    "overwrite": "Nothing is overwritten here: name another folder or file.",
}
_SETTINGS = {"epochs": "training.epochs", "batch-size": "training.batch_size", "warmup": "optimizer.schedule"}
_DATA = {"data", "input", "file", "csv", "path", "data-path", "input-file", "i"}
_EXAMPLES = {
    "forecast": "forecast my.csv",
    "quick": "quick my.csv",
    "evaluate": "evaluate tiny --data my.csv",
    "score": "score predictions.csv",
    "train": "train chronos2/test training.max_steps=50",
    "export": "export runs/NAME/latest --out release",
    "data import": "data import my.csv --out corpora/mine",
    "data inspect": "data inspect my.csv",
    "data market download": "data market download AAPL SPY --source yfinance --out library",
    "data generate": "data generate synthetic/mixture --out corpora/mixture",
    "config show": "config show chronos2/finetune",
    "config copy": "config copy chronos2/finetune",
    "config import": "config import --from kronos finetune.yaml --out mine.yaml",
}


def about_command(word: str, known: Collection[str]) -> str:
    """Return what an unknown verb was probably meant to be; `known` are the verbs there are, named if nothing fits."""
    if Path(word).suffix or os.path.exists(word):
        return f"To forecast a file: `foretrain forecast {shlex.quote(word)}`."
    for words, meant in VERBS_ELSEWHERE:
        if word.lower() in words.split() and "forecast" in known:
            return f"Here that is `foretrain {meant}`."
    return f"There are {', '.join(known)}."


def about_option(flag: str, verb: str, known: Collection[str]) -> str:
    """Return which option (or setting) an unknown option stands for; "" if that is not known.

    `verb` is the command without the program's name, `known` are its options.
    """
    word = flag.lstrip("-").replace("_", "-").lower()
    if word in _IN_OTHER_WORDS:
        return _IN_OTHER_WORDS[word]
    for words, ours in OPTIONS_ELSEWHERE:
        meant = [option for option in ours.split() if option in known]
        if word in words.split() and meant:
            return f"Here that is {' or '.join(meant)}."
    if word in _DATA:
        here = "Here that is --data." if "--data" in known else "The data are named without an option."
        return f"{here} {example(verb)}".strip()
    if verb == "train":
        setting = _SETTINGS.get(word, NAMES_ELSEWHERE.get(word.replace("-", "_"), ""))
        return f"Here that is {setting}, a setting (KEY=VALUE)." if setting else "Settings are given as KEY=VALUE."
    return ""


def example(verb: str) -> str:
    """Return "For example: ..." with a call of a verb; "" for verbs that need no argument."""
    return f"For example: `foretrain {_EXAMPLES[verb]}`." if verb in _EXAMPLES else ""
