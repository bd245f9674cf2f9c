"""The trackers beyond `logging.py`'s: one option each of `logging`, as `logging=[console,mlflow]`.

Keys and tokens come from each service's own environment variables or login, never from the config.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import Choice


class CometMode(Choice):
    online = "online"
    offline = "offline"


class ClearMLMode(Choice):
    online = "online"
    offline = "offline"


class NeptuneMode(Choice):
    async_ = "async"
    sync = "sync"
    offline = "offline"
    debug = "debug"


class SwanLabMode(Choice):
    online = "online"
    local = "local"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class MLflow:
    """MLflow; metrics keep the record's names (loss, eval_loss), the config becomes flat parameters."""

    _target_: str = "trainer.logging.mlflow.MLflow"
    tracking_uri: str | None = None
    """A server's address, `sqlite:///file.db` or a directory; None: MLFLOW_TRACKING_URI, else MLflow's own default."""
    experiment: str = "${run.project}"
    """MLFLOW_EXPERIMENT_NAME, where set, wins, as with Hugging Face (whose default is `Default`)."""
    name: str | None = "${run.run_name}"
    nested: bool = False
    """A child of the run that is active already (HF: MLFLOW_NESTED_RUN)."""
    tags: dict[str, str] = field(default_factory=dict)
    """Beside those of MLFLOW_TAGS, a JSON object."""
    log_artifacts: bool = False
    """Copy `model/` and the run's config to MLflow at the end (HF: HF_MLFLOW_LOG_ARTIFACTS, each checkpoint)."""


@dataclass(kw_only=True, slots=True)
class Trackio:
    """Trackio: a local dashboard, or one in a Hugging Face Space."""

    _target_: str = "trainer.logging.trackio.Trackio"
    project: str = "${run.project}"
    name: str | None = "${run.run_name}"
    trackio_space_id: str | None = None
    """The Space to log to, `user/name`; needs HF_TOKEN or a login; None: this machine (HF: trackio_space_id)."""
    trackio_bucket_id: str | None = None
    """The Hugging Face bucket that holds the Space's data; None: made with the Space (HF: trackio_bucket_id)."""
    trackio_static_space_id: str | None = None
    """Freeze the Space into this static one once the run completed; needs trackio_space_id (HF:
    trackio_static_space_id, where None makes up a name and freezes too; here only what is asked for is published)."""
    private: bool | None = "${hub.hub_private_repo}"  # type: ignore[assignment]
    """Whether a Space made for it is private; None: the account's default (HF: hub_private_repo)."""


@dataclass(kw_only=True, slots=True)
class Comet:
    """Comet; the key comes from COMET_API_KEY or Comet's own config file."""

    _target_: str = "trainer.logging.comet_ml.Comet"
    project: str = "${run.project}"
    """COMET_PROJECT_NAME, where set, wins."""
    name: str | None = "${run.run_name}"
    workspace: str | None = None
    mode: CometMode | None = None
    """offline: an archive below `comet_ml/` of the run's directory, for `comet upload`; None: COMET_START_ONLINE, else
    online."""
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class ClearML:
    """ClearML; the keys come from CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or `clearml-init`."""

    _target_: str = "trainer.logging.clearml.ClearML"
    project: str = "${run.project}"
    """CLEARML_PROJECT, where set, wins (HF's default: HuggingFace Transformers)."""
    name: str | None = "${run.run_name}"
    """Name of the task. CLEARML_TASK, where set, wins (HF's default: Trainer)."""
    mode: ClearMLMode | None = None
    """offline: an archive in ClearML's cache, for `Task.import_offline_session`; None: CLEARML_OFFLINE_MODE, else
    online."""
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class DVCLive:
    """DVCLive's files, which DVC, its Studio and editors show."""

    _target_: str = "trainer.logging.dvclive.DVCLive"
    dir: str | None = None
    """Where the files go; None: `dvclive/` in the run's directory (HF: `dvclive` in the working directory)."""
    save_dvc_exp: bool = False
    """Save the run as a DVC experiment, a git reference of the repository around `dir` (HF: always)."""
    report: str | None = None
    """A report beside the metrics: md, html or notebook."""


@dataclass(kw_only=True, slots=True)
class CodeCarbon:
    """CodeCarbon: emissions.csv in the run's directory, with the energy used and the CO2 it stands for."""

    _target_: str = "trainer.logging.codecarbon.CodeCarbon"
    project: str = "${run.project}"
    output_dir: str | None = None
    """None: the run's directory (HF: output_dir)."""
    country_iso_code: str | None = None
    """Three letters, as DEU: takes that country's mix of energy, and asks no service where the machine stands."""
    measure_power_secs: float = 15.0
    """Seconds between two measurements."""


@dataclass(kw_only=True, slots=True)
class Neptune:
    """Neptune; the token comes from NEPTUNE_API_TOKEN. Its makers ended the service; a server of one's own remains."""

    _target_: str = "trainer.logging.neptune.Neptune"
    project: str | None = None
    """`workspace/name`; None: NEPTUNE_PROJECT."""
    name: str | None = "${run.run_name}"
    mode: NeptuneMode | None = None
    """None: NEPTUNE_MODE, else async; offline keeps the run below .neptune, for `neptune sync`."""
    base_namespace: str = "finetuning"
    """Where in the Neptune run everything stands (HF: the callback's base_namespace)."""
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class SwanLab:
    """SwanLab; the key comes from `swanlab login` or SWANLAB_API_KEY."""

    _target_: str = "trainer.logging.swanlab.SwanLab"
    project: str = "${run.project}"
    """SWANLAB_PROJECT_NAME, where set, wins (HF: SWANLAB_PROJECT, which SwanLab 0.8 cannot read)."""
    name: str | None = "${run.run_name}"
    workspace: str | None = None
    mode: SwanLabMode | None = None
    """local and offline write below `swanlab/` of the run's directory; None: SWANLAB_MODE, else online."""
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Aim:
    """Aim, with the names of its own callback for the Trainer: metric `loss` in the context {subset: eval}."""

    _target_: str = "trainer.logging.aim.Aim"
    repo: str | None = None
    """A directory or `aim://host:port`; None: `.aim` in the working directory, made if it is not there."""
    experiment: str = "${run.project}"
    name: str | None = "${run.run_name}"
    system_tracking_interval: float | None = None
    """Seconds between two records of CPU, memory and GPU use; None: none."""


@dataclass(kw_only=True, slots=True)
class Flyte:
    """Flyte, inside one of its tasks: checkpoints for its restarts, and the log's history as a deck."""

    _target_: str = "trainer.logging.flyte.Flyte"
    save_log_history: bool = True
    """The records as a table in the deck `Log History` (HF: the callback's save_log_history)."""
    sync_checkpoints: bool = True
    """Hand each new checkpoint to Flyte, at the next log (HF: the callback's sync_checkpoints)."""


@dataclass(kw_only=True, slots=True)
class AzureML:
    """Azure Machine Learning, inside one of its jobs; metrics keep the record's names (loss, eval_loss)."""

    _target_: str = "trainer.logging.azure_ml.AzureML"
