"""What a file may not set: variables that load code, factories of loggers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config.composer import Composition
from trainer.config.trust import is_harmless

Compose = Callable[..., Composition]


@pytest.mark.parametrize(
    "name",
    [
        "OMP_NUM_THREADS",
        "NCCL_DEBUG",
        "NCCL_SOCKET_IFNAME",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "TORCH_NCCL_BLOCKING_WAIT",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "WANDB_PROJECT",
        "WANDB_MODE",
        "TOKENIZERS_PARALLELISM",
        "PYTORCH_CUDA_ALLOC_CONF",
        "CUBLAS_WORKSPACE_CONFIG",
    ],
)
def test_harmless_variables(name: str) -> None:
    assert is_harmless(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "GIT_CONFIG_COUNT",
        "GIT_CONFIG_KEY_0",
        "GIT_SSH_COMMAND",
        "BASH_ENV",
        "EDITOR",
        "PAGER",
        "HOME",
        "MASTER_ADDR",
        "HTTPS_PROXY",
        "NCCL_NET_PLUGIN",
        "CUDA_INJECTION64_PATH",
        "CUDA_HOME",
        "OMP_TOOL_LIBRARIES",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        "TORCHINDUCTOR_CACHE_DIR",
        "WANDB__EXECUTABLE",
        "HF_DATASETS_TRUST_REMOTE_CODE",
        "HF_ENDPOINT",
        "WANDB_BASE_URL",
    ],
)
def test_variables_that_load_code(name: str) -> None:
    assert not is_harmless(name)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write conf/experiment/theirs.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)

    def write(text: str) -> None:
        (tmp_path / "conf" / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{text}\n")

    return write


def test_a_file_sets_only_harmless_variables(compose: Compose, experiment: Callable[[str], None]) -> None:
    experiment("hydra: {job: {env_set: {OMP_NUM_THREADS: 1, GIT_CONFIG_COUNT: 1, LD_PRELOAD: evil.so}}}")
    place = "(conf/experiment/theirs.yaml:2): is taken only from the command line"
    found = [str(problem) for problem in compose("experiment=theirs").problems]
    keys = ["hydra.job.env_set.GIT_CONFIG_COUNT", "hydra.job.env_set.LD_PRELOAD"]
    assert [line.startswith(f"{key} {place}") for key, line in zip(keys, found, strict=True)] == [True, True]
    typed = [f"++{key}=1" for key in keys]
    assert compose("experiment=theirs", *typed).problems == []


def test_variables_by_reference(compose: Compose, experiment: Callable[[str], None]) -> None:
    experiment("hydra: {job: {env_set: '${oc.create:{LD_PRELOAD: evil.so}}'}}")
    found = [str(problem) for problem in compose("experiment=theirs").problems]
    assert any(line.startswith("hydra.job.env_set") for line in found)


@pytest.mark.parametrize("node", ["job_logging", "hydra_logging"])
def test_no_factory_of_a_logger(compose: Compose, experiment: Callable[[str], None], node: str) -> None:
    experiment(f"hydra: {{{node}: {{handlers: {{x: {{(): os.system, command: ls}}}}}}}}")
    found = [str(problem) for problem in compose("experiment=theirs").problems]
    assert any("a factory is not called" in line for line in found)
