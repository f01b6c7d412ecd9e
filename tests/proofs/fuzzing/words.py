"""Hostile command lines: values of options, overrides of configs, names of models, environment variables.

Each function draws a command and environment variables, for the template `tables` or that of a family.
"""

# ruff: noqa: SIM905
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

VALUES = [
    "",
    " ",
    "-1",
    "0",
    "1",
    "0.5",
    "1e12",
    "1000000000",
    "1000000000000",
    "9223372036854775808",
    "9" * 5000,
    "nan",
    "inf",
]
VALUES += [
    "null",
    "true",
    "[",
    "{",
    "[[1]]",
    "{a: 1}",
    "a,b",
    "a,a",
    ",",
    "\x1b[2J",
    "\u202e",
    "x" * 300,
    "x" * 5000,
    "..",
    "/proc/version",
]
VALUES += [
    "&a [*a]",
    "!!python/name:os.system",
    "2024-13-45",
    "0x10",
    "1_0",
    "a=b",
    "=",
    "\n",
    "²",
    "é",
    "-",
    "--",
    "%",
    "%Y%Q",
    "*",
    "\ud800",
]
NUMBERS = [
    "1",
    "2",
    "100000",
    "1000000000",
    "1000000000000",
    "9223372036854775807",
    "9223372036854775808",
    "-1",
    "0",
    "1e3",
    "9" * 4000,
]
WORDS = {  # options whose values have a form of their own: values near to it
    "--quantile-levels": [
        "0.1",
        "0.5,0.5",
        "0",
        "1",
        "0.1,nan",
        "-1",
        "0.1,0.2,",
        ",".join(f"0.{n:04d}" for n in range(1, 2000)),
    ],
    "--freq": ["h", "D", "0h", "-1h", "1000000000000h", "ns", "5x", "1.5h", "W-XXX", "Q", "9" * 400 + "D"],
    "--date-format": ["%Y", "%Y-%m-%d %H:%M:%S", "%", "%%", "%Q", "%Y" * 300, "x"],
    "--time-unit": ["s", "ns", "h", "S"],
    "--timezone": ["UTC", "Mars/Base", "../UTC", "/proc/version", "+99:99", "EST5EDT", "Europe/Berlin"],
    "--encoding": ["utf-8", "utf-16", "utf-7", "idna", "rot13", "zip", "base64", "punycode", "unicode_escape", "cp037"],
    "--decimal": [",", ".", ";", "..", "1"],
    "--column": [
        "target=target",
        "target=",
        "=target",
        "x=y",
        "target=target=target",
        "item_id=item_id",
        "timestamp=target",
        "target=no",
    ],
    "--option": ["x=1", "x", "temperature=-1", "top_k=1e9", "temperature=nan"],
    "--calendar": ["XNYS", "24/7", "NOPE", "xnys", "../x"],
    "--num-series": ["0", "1", "2", "-1", "1e3", "x", "9" * 400],  # many would take long rightly
    "--split": ["test", "validation", "all"],
    "--trailing-rows": ["future", "history", "drop"],
    "--values": ["price", "percent", "fraction"],
}
READING = [
    "--id-column",
    "--timestamp-column",
    "--column",
    "--date-format",
    "--time-unit",
    "--timezone",
    "--encoding",
    "--skip-rows",
]
READING += ["--names", "--na-values", "--decimal"]
COUNTS = [
    "--prediction-length",
    "--context-length",
    "--batch-size",
    "--seed",
    "--num-samples",
    "--threads",
    "--num-windows",
    "--stride",
]
COUNTS += [
    "--seasonality",
    "--max-items",
    "--skip-rows",
    "--min-rows",
    "--num-series",
    "--max-train-series",
    "--max-steps",
]
OPTIONS = {
    tuple("forecast model series.csv --out f.csv".split()): [
        *READING,
        *"""
        --prediction-length --context-length --batch-size --seed --num-samples --quantile-levels --target
        --calendar --past-covariates --known-covariates --threads --trailing-rows --option --tokenizer --freq
        --future
    """.split(),
    ],
    tuple("evaluate model --data corpus --prediction-length 4".split()): """
        --num-windows --stride --split --target --past-covariates --known-covariates --context-length
        --quantile-levels --batch-size --seasonality --max-items --num-samples --seed --option --tokenizer
        --against --clusters --threads --out
    """.split(),
    tuple("data import series.csv --out new".split()): [
        *READING,
        *"""
        --target --min-rows --provenance --freq --categorical --columns
    """.split(),
    ],
    tuple("data inspect series.csv".split()): [
        *READING,
        *"""
        --freq --columns
    """.split(),
    ],
    tuple("score p.csv".split()): [
        *READING,
        *"""
        --values --claimed-percent
    """.split(),
    ],
    tuple("data generate config-synthetic-mixture.yaml --out new".split()): """
        --num-series
    """.split(),
    tuple("train config-debug.yaml --dry-run".split()): """
        --context-length --prediction-length --max-steps --learning-rate --per-device-train-batch-size
        --gradient-accumulation-steps --token-budget --max-train-series --seed --threads --model-id --dtype
        --device
    """.split(),
    tuple("export model".split()): """
        --out
    """.split(),
}
KEYS = [
    "",
    "x" * 300,
    *"""
    seed threads device output_dir data.context_length data.prediction_length data.corpora data.corpora.0.path
    data.corpora.0.weight data.corpora.² data.stride data.validation_steps data.test_steps
    data.max_train_series data.verify data.sampling data.min_context training.max_steps training.epochs
    training.max_minutes training.batch_size training.micro_batch_size
    training.token_budget.max_tokens_per_batch training.dtype training.clip_norm training.ema_decay
    training.keep_last training.log_every training.validate_every training.checkpoint_every training.compile
    training.on_nonfinite training.skip_budget training.patience optimizer.name optimizer.learning_rate
    optimizer.betas optimizer.betas.0 optimizer.weight_decay optimizer.schedule optimizer.schedule.kind
    optimizer.schedule.warmup_steps optimizer.schedule.pct_start evaluation.num_windows evaluation.batch_size
    evaluation.quantile_levels evaluation.seasonality evaluation.stride evaluation.promotion model
    model.family model.model_id model.d_model model.d_ff model.num_layers model.num_heads model.patch_size
    model.quantiles model.dropout_rate loss loss.kind adapter.rank adapter.alpha output.sort_quantiles stages
    stages.0 stages.x.seed . a.b.c.d model. .seed data.corpora.-1.path data.corpora.999999999999.path
""".split(),
]
HUB = [
    "a/b",
    "../x",
    "a/../b",
    "a//b",
    "/",
    "a/b/c",
    "org/na me",
    "org/\x1b[2J",
    "o" * 200 + "/x",
    "org/..",
    "~",
    "~nobody/x",
    "org/x@main",
    "C:\\x",
]
HUB += [
    "http://a/b",
    "datasets/a/b",
    "a/b.git",
    "-a/b",
    "a/b--c",
    "a..b/c",
    "\u202ea/b",
    "series.csv",
    "corpus",
    "tiny/x",
    "model/latest",
    "Tiny",
]
VARIABLES = {  # a group of processes that is complete waits for its members, and is no fault: WORLD_SIZE is never one
    "RANK": ["-1", "1", "3", "abc", "", "1.5", "9" * 30],
    "WORLD_SIZE": ["0", "-1", "abc", "", "1.5", " 1", "9" * 5000, "1"],
    "LOCAL_RANK": ["-1", "5", "abc", ""],
    "LOCAL_WORLD_SIZE": ["-1", "0", "abc", "99"],
    "MASTER_PORT": ["0", "-1", "99999", "abc", ""],
    "MASTER_ADDR": ["", "x" * 300, "256.256.256.256"],
    "OMP_NUM_THREADS": ["0", "-1", "abc", "100000"],
    "FORETRAIN_REPORT_MESSAGES": ["2", "", "x" * 5000],
    "XDG_CACHE_HOME": ["", "/proc/version", "/proc/x", "x" * 300, "series.csv", "."],
    "HOME": ["", "/proc/x", "series.csv"],
    "TMPDIR": ["/proc/x", "series.csv", ""],
    "CUDA_VISIBLE_DEVICES": ["abc", "-1", "99"],
    "COLUMNS": ["0", "-1", "abc", "1", "9" * 30],
    "LINES": ["0", "abc"],
    "TERM": ["", "dumb", "x" * 300],
    "LANG": ["", "tr_TR.UTF-8", "x"],
    "LC_ALL": ["C", "POSIX", "x"],
    "TZ": ["Mars/Base", "", "/proc/version", ":"],
    "SLURM_NTASKS": ["4", "abc", "0"],
    "HF_HOME": ["/proc/x", "", "series.csv"],
    "PYTHONHASHSEED": ["x"],
}


@dataclass(frozen=True)
class Line:
    """A kind of command line: its template and how one is drawn."""

    kind: str
    template: str
    draw: Callable[[random.Random], tuple[list[str], dict[str, str]]]
    weight: float = 5.0


def lines() -> list[Line]:
    """Return every kind of command line."""
    return [
        Line("words/options", "tables", _options, 10),
        Line("words/overrides", "tables", _overrides, 8),
        Line("words/models", "tables", _models, 3),
        Line("words/paths", "tables", _paths, 3),
        Line("words/environment", "chronos2", _environment, 5),
    ]


def _usable(word: str) -> str:
    """Return a word that a process can be given: without NUL, its surrogates as the file system writes them."""
    return word.replace("\x00", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


def _options(rng: random.Random) -> tuple[list[str], dict[str, str]]:
    base = rng.choice(list(OPTIONS))
    words = list(base)
    for _ in range(rng.choice((1, 1, 2, 3))):
        option = rng.choice(OPTIONS[base])
        near = WORDS.get(
            option, NUMBERS if option in COUNTS else ["target", "item_id", "timestamp", "target,target", "nothing"]
        )
        words += [option, _usable(rng.choice(near if option == "--num-series" or rng.random() < 0.6 else VALUES))]
    if base[0] in ("forecast", "evaluate", "train") and "--threads" not in words:
        words += ["--threads", "1"]
    return words, {}


def _overrides(rng: random.Random) -> tuple[list[str], dict[str, str]]:
    verb = rng.choice(
        (
            ["config", "show", "{}"],
            ["train", "{}", "--dry-run"],
            ["data", "generate", "config-synthetic-mixture.yaml", "--out", "new", "--num-series", "2"],
        )
    )
    config = rng.choice(("config-debug.yaml", "config-toto-quick.yaml", "config-kronos-two-stage.yaml", "corpus.yaml"))
    words = [word.replace("{}", config) for word in verb]
    keys = (
        KEYS
        if verb[0] != "data"
        else [
            "seed",
            "missing",
            "missing_fraction",
            "lengths",
            "lengths.0.longest",
            "lengths.0.share",
            "generators",
            "generators.0.kind",
            "generators.0.weight",
            "freq",
        ]
    )
    for _ in range(rng.choice((1, 1, 2))):
        value = rng.choice(VALUES if rng.random() < 0.6 else NUMBERS)
        words.append(_usable(f"{rng.choice(keys)}={value}" if rng.random() < 0.95 else value))
    return words, {}


def _models(rng: random.Random) -> tuple[list[str], dict[str, str]]:
    name = _usable(rng.choice(HUB if rng.random() < 0.8 else VALUES))
    verb = rng.choice(
        (
            ["forecast", "--model", name, "series.csv"],
            ["evaluate", name, "--data", "corpus"],
            ["export", name, "--out", "x"],
            ["train", "corpus.yaml", f"model.model_id={name}", "--dry-run"],
            ["forecast", "tiny", "series.csv", "--tokenizer", name],
            ["train", "corpus.yaml", "--resume-from-checkpoint", name, "output_dir=new"],
        )
    )
    return verb, {}


def _paths(rng: random.Random) -> tuple[list[str], dict[str, str]]:
    """Names of files and folders, and of the options and verbs themselves."""
    name = _usable(
        rng.choice([*VALUES, "fifo", "loop", "corpus", "series.csv/x", "x.csv", "model", "nothing.csv", "empty.csv"])
    )
    verb = rng.choice(
        (
            ["data", "import", name, "--out", "new"],
            ["data", "inspect", name],
            ["data", "verify", name],
            ["score", name],
            ["forecast", "model", name],
            ["evaluate", "model", "--data", name],
            ["config", "show", name],
            ["train", name, "--dry-run"],
            ["forecast", "model", "series.csv", "--future", name],
            [name],
            ["data", name],
            ["forecast", f"--{name}", "1"],
            ["quick", name],
            ["config", "copy", name, "--out", "c.yaml"],
            ["config", "import", "--from", "kronos", name],
            ["data", "generate", name, "--out", "new"],
            ["export", name, "--out", "x"],
        )
    )
    return verb, {}


def _environment(rng: random.Random) -> tuple[list[str], dict[str, str]]:
    chosen = {name: rng.choice(VARIABLES[name]) for name in rng.sample(sorted(VARIABLES), rng.choice((1, 1, 2, 3)))}
    verb = rng.choice(
        (
            ["train", "interrupted.yaml", "--resume"],
            ["train", "finished.yaml", "--dry-run", "output_dir=new"],
            ["forecast", "finished", "history.csv", "--out", "f.csv"],
            ["evaluate", "finished", "--data", "corpus"],
            ["data", "import", "history.csv", "--out", "new"],
            ["data", "verify", "corpus"],
            ["config", "show", "finished.yaml"],
            ["doctor"],
        )
    )
    return verb, {name: _usable(value) for name, value in chosen.items()}
