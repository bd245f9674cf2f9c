"""The items that a mean loss averages over, counted by transformers' own models and torch's own losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainer.schema import task as schema
from trainer.task import make_task
from trainer.task.task import Supervised

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
XLNET = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}
LM, CLASSES = schema.LanguageModeling, schema.Classification


class Watch(TorchFunctionMode):
    """Counts the targets of every cross entropy that is computed inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.cross_entropy:
            target = args[1] if len(args) > 1 else kwargs["target"]
            self.counted += int(target.ne(kwargs.get("ignore_index", -100)).sum())
        return function(*args, **kwargs)


def labels() -> Tensor:
    """(3, 7) with different shares of ignored labels, also at the first position."""
    made = torch.randint(5, 37, (3, 7), generator=torch.Generator().manual_seed(0))
    made[0, :3], made[1, 5:], made[2, ::2] = -100, -100, -100
    return made


def t5() -> Any:
    config = {"vocab_size": 37, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**config, decoder_start_token_id=0))


def bart() -> Any:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ffn = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    return transformers.BartForConditionalGeneration(transformers.BartConfig(vocab_size=37, d_model=16, **sizes, **ffn))


def bert(head: str, **options: Any) -> Any:
    return getattr(transformers, f"Bert{head}")(transformers.BertConfig(**SMALL, **options))


MODELS = {
    "T5": (t5, LM),
    "BART": (bart, LM),
    "masked LM": (lambda: bert("ForMaskedLM"), LM),
    "BERT as a decoder": (lambda: bert("LMHeadModel", is_decoder=True), LM),
    "GPT-2": (lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=37, **GPT2)), LM),
    "Llama": (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)), LM),
    "XLNet": (lambda: transformers.XLNetLMHeadModel(transformers.XLNetConfig(vocab_size=37, **XLNET)), LM),
    "tokens": (lambda: bert("ForTokenClassification", num_labels=37), CLASSES),
    "tokens as language": (lambda: bert("ForTokenClassification", num_labels=37), LM),
    "causal LM as classes": (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)), CLASSES),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_transformers_models_items_are_those_of_its_loss(name: str) -> None:
    make, node = MODELS[name]
    model, task = make(), make_task(node())
    assert isinstance(task, Supervised)
    task.prepare(model)
    batch = {"input_ids": labels().clamp(min=5), "labels": labels()}
    with Watch() as watch:
        task.loss(model, batch)
    assert watch.counted == int(task.num_items(batch))  # type: ignore[arg-type]


def test_smoothed_labels_are_shifted_only_if_the_models_are() -> None:
    batch = {"input_ids": labels().clamp(min=5), "labels": labels()}
    model, task = bert("ForMaskedLM").eval(), make_task(LM(), label_smoothing=1e-7)
    assert isinstance(task, Supervised)
    task.prepare(model)
    torch.testing.assert_close(task.loss(model, batch), model(**batch).loss)


CLASS_WEIGHTS = torch.tensor([1.0, 3.0, 0.5])
LOSSES: dict[str, tuple[nn.Module, Tensor]] = {
    "ignored": (nn.CrossEntropyLoss(), torch.tensor([0, -100, 2, -100, -100, 1])),
    "another index": (nn.CrossEntropyLoss(ignore_index=2), torch.tensor([0, 2, 1, 2, 2, 2])),
    "weights of classes": (nn.CrossEntropyLoss(CLASS_WEIGHTS), torch.tensor([0, -100, 2, 1, 1, 1])),
    "probabilities": (nn.CrossEntropyLoss(), torch.rand(6, 3)),
    "elements": (nn.MSELoss(), torch.rand(6, 3)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_of_a_batch_is_that_of_its_parts_weighted_by_their_items(name: str) -> None:
    function, target = LOSSES[name]
    task, output = make_task(function), torch.randn(6, 3)
    parts = [(output[:2], target[:2]), (output[2:], target[2:])]
    items = [torch.as_tensor(task.num_items(part)) for part in parts]
    means = [function(*part) * count for part, count in zip(parts, items, strict=True)]
    torch.testing.assert_close(sum(means) / sum(items), function(output, target))


def test_a_loss_of_the_users_own_is_weighted_by_samples() -> None:
    task = make_task(lambda output, target: (output - target).abs().mean())
    assert task.num_items((torch.zeros(2), torch.zeros(2))) is None
