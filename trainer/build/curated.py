"""The names that a config may call although they are neither the user's code nor a class of a slot's type."""

from __future__ import annotations

import re

KINDS = frozenset(
    {
        "torch.nn.modules.module.Module",
        "torch.optim.optimizer.Optimizer",
        "torch.optim.lr_scheduler.LRScheduler",
        "torch.utils.data.dataset.Dataset",
        "torchmetrics.metric.Metric",
        "trainer.callbacks.callback.Callback",
        "trainer.logging.reporter.Reporter",
        "trainer.parallel.engine.Engine",
        "trainer.task.task.Task",
    }
)
"""The types of the slots, as MODULE.QUALNAME: a class that derives from one may be called, whoever installed it.
Compared by name, so that nothing is imported for the comparison."""

STANDARD_LIBRARY = frozenset(
    {
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.deque",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "decimal.Decimal",
        "fractions.Fraction",
        "functools.partial",
        "pathlib.PurePath",
        "builtins.bool",
        "builtins.dict",
        "builtins.float",
        "builtins.int",
        "builtins.list",
        "builtins.set",
        "builtins.str",
        "builtins.tuple",
    }
)
"""Values. Everything else of the standard library (os, subprocess, pickle, builtins.eval ...) is refused."""

_NAMES = (
    # torch: values, layers, losses, optimizers, schedules, data
    r"torch\.(as_tensor|tensor|arange|linspace|logspace|zeros|ones|full|empty|eye|rand|randn|randint|randperm|normal)",
    r"torch\.(relu|sigmoid|tanh|softmax|log_softmax|device|Generator|Size)",
    r"torch\.nn\.[A-Za-z]\w*",
    r"torch\.nn\.modules\.\w+\.[A-Z]\w*",
    r"torch\.nn\.functional\.[a-z]\w*",
    r"torch\.nn\.init\.[a-z]\w*",
    r"torch\.optim\.[A-Z]\w*",
    r"torch\.optim\.(lr_scheduler|swa_utils)\.[A-Za-z]\w*",
    r"torch\.utils\.data\.(\w*Dataset|\w*Sampler|Subset|random_split|default_collate|default_convert)",
    # numpy: arrays and scalars from numbers
    r"numpy\.(array|asarray|arange|linspace|logspace|zeros|ones|full|eye|bool_|(u?int|float)(8|16|32|64))",
    r"numpy\.random\.default_rng",
    # packages whose functions build what a slot takes
    r"torchmetrics\.[A-Z]\w*",
    r"torchmetrics\.functional(\.[a-z]\w*)+",
    r"torchvision\.models(\.[a-z]\w*)*\.\w+",
    r"torchvision\.transforms(\.v2)?\.[A-Z]\w*",
    r"torchaudio\.transforms\.[A-Z]\w*",
    r"timm\.create_model",
    r"timm\.data\.create_transform",
    r"datasets\.(load_dataset|load_from_disk)",
    r"transformers(\.models)?(\.\w+)*\.[A-Z]\w*\.(from_config|from_pretrained)",
    r"transformers\.([A-Z]\w*Config|DataCollator\w*|default_data_collator|get_scheduler|get_\w+_(schedule|scheduler)\w*)",
    r"peft\.[A-Z]\w*Config",
)
_CURATED = re.compile("|".join(_NAMES))

_HOMES = re.compile(
    r"torch\.nn(\.\w+)+|torch\._C\._nn\.\w+|torch\.optim(\.\w+)+|transformers(\.\w+)+\._?from_(config|pretrained)"
)
"""Where torch and transformers define what `_NAMES` offers, for a user's module that imports it."""

NAMESPACES = (
    "torch.nn.functional",
    "torch",
    "torch.nn",
    "torch.nn.init",
    "torch.optim.lr_scheduler",
    "torch.utils.data",
    "numpy",
    "torchvision.models",
    "torchvision.transforms",
    "timm",
    "datasets",
    "transformers",
)
"""Modules under whose name an object may be curated that says of itself that it comes from elsewhere."""

_REFUSED = re.compile(
    # build code, open files or start processes although they are classes of a slot's type
    r"torch\.(jit|fx|package|export|onnx|testing|distributed\.nn|distributed\.rpc|hub|_)\b.*"
    r"|torch\.utils\.data\.(datapipes\b.*|\w*(Iter|Map)DataPipe)"
    r"|torch\.nn\.(factory_kwargs|functional\.(handle_torch_function|boolean_dispatch))"
    r"|deepspeed\.(runtime|inference)\b.*"
    r"|torchvision\.models\.(_\w+|.*\bload_state_dict_from_url)"
    # datasets that read pickles from a cache
    r"|transformers\.(.*\.)?(TextDataset|GlueDataset|SquadDataset|LineByLineWithRefDataset|TextDatasetForNextSentencePrediction)"
)


def is_curated(name: str) -> bool:
    """Whether a config may call ``name`` whatever it is."""
    return name in STANDARD_LIBRARY or (_CURATED.fullmatch(name) is not None and not is_refused(name))


def is_curated_home(name: str) -> bool:
    """Whether an object defined as ``name`` is on the list under its public name."""
    return is_curated(name) or (_HOMES.fullmatch(name) is not None and not is_refused(name))


def is_refused(name: str) -> bool:
    """Whether a config may not call ``name`` although it is a class of a slot's type."""
    return _REFUSED.fullmatch(name) is not None
