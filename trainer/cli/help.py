"""The text of `--help`."""

from __future__ import annotations

TEXT = """\
python train.py [FLAGS] [OVERRIDES]

The first word of an override names everything about it: `parallel=zero3` chooses conf/parallel/zero3.yaml,
`parallel.zero_stage=2` sets a field of trainer/schema/parallel.py, trainer/parallel/ does it.

  python train.py                                             train the embedded default
  python train.py optim=adamw_fused precision=bf16 parallel=zero3
  python train.py optim.learning_rate=3e-4 train.max_steps=100 logging=[console,wandb]
  python train.py experiment=digits
  python train.py -m optim.learning_rate=1e-4,3e-4,1e-3       a sweep, one run per value
  python train.py --cfg job [--resolve] [OVERRIDES]           show the config, run nothing

Groups and their options (GROUP=OPTION; logging and callbacks take a list, [a,b]):

{groups}
Flags:

  -m, --multirun        sweep over the values of a,b lists, range(), choice(), interval()
  -c, --cfg job|hydra|all   show the config; with --resolve its interpolations' values; with -p KEY a part of it
  -i, --info [all|config|defaults|defaults-tree|plugins|searchpath]
  -cn, --config-name    another primary config than config.yaml
  -cd, --config-dir     a folder with options of your own (as is ./conf)
  -sc install=bash      shell completion (bash, zsh, fish): eval "$(python train.py -sc install=bash)"
  --hydra-help          Hydra's own flags and groups
  --version             this package's and Hydra's

Exit codes: 0 done, 1 failed, 2 wrong configuration, 75 preempted, 130 interrupted (both with a checkpoint:
checkpoint.resume_from_checkpoint=auto resumes). Other verbs: python -m trainer --help."""


def help_text(groups: str) -> str:
    """What the command takes; ``groups`` are the options that the search path offers, a group a line."""
    return TEXT.format(groups="".join(f"  {line}\n" for line in groups.splitlines()))
