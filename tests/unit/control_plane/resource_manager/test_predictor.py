"""The memory a training takes: hand-computed formulas, published models, what scripts' arguments say, and the past."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.models.workload import METHODS, OPTIMIZERS, PRECISIONS, SHARDINGS
from ugro.control_plane.resource_manager.predictor.fit import (
    Estimate,
    Fit,
    PastRun,
    Workload,
    alternatives,
    corrected,
    explain,
    fit,
    fitting_batch,
    formula_mib,
    from_model,
    predict,
    read_workload,
)
from ugro.control_plane.resource_manager.predictor.known_models import Architecture, architecture, parameter_count

GIB = 1024
BILLION = Workload(parameters=2**30, batch=1, sequence=512)
"""So that x bytes per parameter are x GiB."""


def parts(workload: Workload) -> dict[str, float]:
    """The terms of its estimate in GiB, the optimizer under one name."""
    return {term.name.split(" (")[0]: term.mib / GIB for term in from_model(workload).terms}


def read(words: str, gpus: int = 1) -> Workload:
    workload = read_workload(words.split(), gpus)
    assert workload is not None
    return workload


# --- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "weights", "gradients", "optimizer"),
    [
        ({"precision": "fp32"}, 4, 4, 8),
        ({"precision": "amp"}, 6, 4, 8),
        ({"precision": "bf16"}, 2, 2, 4),
        ({"precision": "fp16", "optimizer": "adam8bit"}, 2, 2, 2),
        ({"optimizer": "sgd"}, 4, 4, 4),
        ({"optimizer": "adam8bit"}, 4, 4, 2),
        ({"optimizer": "adafactor"}, 4, 4, 4),
        ({"precision": "amp", "sharding": "zero1", "gpus": 4}, 2, 2, 3),
        ({"precision": "amp", "sharding": "zero2", "gpus": 4}, 2, 0.5, 3),
        ({"precision": "amp", "sharding": "zero3", "gpus": 4}, 0.5, 0.5, 3),
        ({"precision": "amp", "sharding": "fsdp", "gpus": 4}, 1, 1, 2),
    ],
)
def test_bytes_per_parameter(changes: dict[str, object], weights: float, gradients: float, optimizer: float) -> None:
    found = parts(replace(BILLION, **changes))  # type: ignore[arg-type]
    assert (found["weights"], found["gradients"], found["optimizer"]) == (weights, gradients, optimizer)


def test_ddp_keeps_the_gradients_twice_only_where_there_is_somebody_to_exchange_them_with() -> None:
    assert "DDP buckets" not in parts(BILLION)
    assert parts(replace(BILLION, gpus=2))["DDP buckets"] == 4


def test_activations_and_logits_by_hand() -> None:
    workload = read("--model llama-7b --batch 2 --seq 2048 --bf16")
    found = parts(workload)
    assert found["activations"] == 34 * 2048 * 2 * 4096 * 32 / 2**30  # 17 GiB
    assert found["logits"] == pytest.approx(2048 * 2 * 32000 * 10 / 2**30, rel=0.001)
    again = parts(replace(workload, checkpointing=True))
    assert again["activations"] == pytest.approx((2 * 32 + 34) * 2048 * 2 * 4096 / 2**30, rel=0.001)
    assert parts(replace(workload, precision="fp32"))["activations"] == 2 * found["activations"]


def test_attention_that_is_not_fused_is_in_the_upper_end() -> None:
    long, short = (
        read("--model llama-7b --batch 1 --seq 4096 --bf16"),
        read("--model llama-7b --batch 1 --seq 512 --bf16"),
    )
    spread = [from_model(one).terms[3].above / from_model(one).terms[3].mib for one in (short, long)]
    assert spread == pytest.approx([0.2 + 20 / 34, 0.2 + 160 / 34], rel=0.001)


def test_frozen_weights_of_adapters() -> None:
    assert parts(replace(BILLION, method="lora", precision="bf16"))["frozen weights"] == 2
    assert parts(replace(BILLION, method="lora"))["frozen weights"] == 4
    quantized = parts(replace(BILLION, method="qlora"))
    assert quantized["frozen weights"] == pytest.approx(0.55, rel=0.001)
    assert quantized["optimizer"] == pytest.approx(8 * 0.006, abs=0.001)


@pytest.mark.parametrize("gib", [8, 12, 24, 80])
def test_a_full_llama_7b_goes_into_no_single_gpu(gib: int) -> None:
    for gpus in (1, 2, 4):
        assert fit(from_model(read("--model llama-7b --batch 1 --seq 512", gpus)), gib * GIB) is Fit.DOES_NOT


@pytest.mark.parametrize(
    ("words", "gib"),
    [
        ("--model llama-7b --qlora --batch 1 --seq 512 --gradient_checkpointing", 8),
        ("--model gpt2 --batch 4 --seq 512", 8),
        ("--model resnet50 --batch 32", 8),
        ("--model bert-base-uncased --batch 8 --seq 128 --fp16", 8),
        ("--model llama-7b --lora --batch 1 --seq 512 --gradient_checkpointing", 24),
    ],
)
def test_what_is_known_to_train_fits(words: str, gib: int) -> None:
    assert fit(from_model(read(words)), gib * GIB) is Fit.FITS
    assert fit(from_model(read(words, gpus=2)), gib * GIB) is Fit.FITS


WORKLOADS = st.builds(
    Workload,
    parameters=st.integers(1, 10**12),
    precision=st.sampled_from(PRECISIONS),
    optimizer=st.sampled_from(OPTIMIZERS),
    batch=st.integers(1, 4096),
    sequence=st.integers(1, 65536),
    method=st.sampled_from(METHODS),
    sharding=st.sampled_from(SHARDINGS),
    checkpointing=st.booleans(),
    gpus=st.integers(1, 64),
    model=st.sampled_from(["", "gpt2", "resnet50", "qwen-7b", "vit-base"]),
)


@settings(deadline=None)  # a busy machine is no failure
@given(WORKLOADS)
def test_the_band_holds_the_middle_which_is_the_sum_of_its_terms(workload: Workload) -> None:
    estimate = from_model(workload)
    assert 0 < estimate.low_mib <= estimate.mib <= estimate.high_mib
    assert estimate.mib == sum(term.mib for term in estimate.terms) == formula_mib(estimate)


@settings(deadline=None)
@given(WORKLOADS, st.integers(1, 100))
def test_more_never_needs_less(workload: Workload, more: int) -> None:
    before = from_model(workload)
    for changed in (
        replace(workload, batch=workload.batch + more),
        replace(workload, sequence=workload.sequence + more),
    ):
        after = from_model(changed)
        assert after.mib >= before.mib and after.high_mib >= before.high_mib


@settings(deadline=None)
@given(WORKLOADS, st.integers(1, 200_000))
def test_the_batch_that_fits_fits_and_the_next_does_not(workload: Workload, memory: int) -> None:
    batch = fitting_batch(workload, memory)
    if batch:
        assert fit(from_model(replace(workload, batch=batch)), memory) is Fit.FITS
    if batch < 2**15:
        assert fit(from_model(replace(workload, batch=batch + 1)), memory) is not Fit.FITS


# --- names and arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("7b", 7000), ("llama-7b", 6738), ("meta-llama/Llama-2-7b-hf", 6738), ("facebook/opt-350m", 350),
        ("1.3b", 1300), ("Qwen/Qwen2.5-0.5B-Instruct", 500), ("mixtral-8x7b", 46700), ("moe-8x7b", 46480),
        ("gpt2", 124.4), ("openai-community/gpt2-medium", 354.8), ("gpt2-large", 774), ("gpt2_xl", 1557.6),
        ("bert-base-uncased", 109.5), ("bert-large-cased", 335.1), ("roberta-base", 124.6), ("resnet50", 25.6),
        ("google-t5/t5-small", 60.5), ("google/vit-base-patch16-224", 86.6), ("/data/models/llama-7b/", 6738),
        ("meta-llama/Llama-3.2-1B", 1000), ("pythia-160m-deduped", 160),
    ],
)  # fmt: skip
def test_parameters_by_name(name: str, millions: float) -> None:
    assert parameter_count(name) == pytest.approx(millions * 1e6)


@pytest.mark.parametrize("name", ["", "foo", "checkpoint-500", "model-4bit", "12b3", "0b", "9" * 400 + "b", "v2", "/"])
def test_names_that_tell_no_size(name: str) -> None:
    assert parameter_count(name) is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("13b", Architecture(40, 5120, 40, 50257)),
        ("opt-350m", Architecture(24, 1024, 16, 50257)),
        ("opt-2.7b", Architecture(32, 2560, 32, 50257)),
        ("llama-2-7b-hf", Architecture(32, 4096, 32, 32000)),
        ("Llama-3-8B", Architecture(32, 4096, 32, 128256)),
        ("1m", Architecture(6, 128, 4, 50257)),
        ("9000b", Architecture(126, 16384, 128, 50257)),
    ],
)
def test_shapes_of_known_models(name: str, shape: Architecture) -> None:
    assert architecture(name, parameter_count(name) or 0) == shape


def test_a_shape_between_known_ones_is_interpolated() -> None:
    shape = architecture("30b", 30_000_000_000)
    assert 40 < shape.layers < 80 and 5120 < shape.hidden < 8192 and 40 < shape.heads < 64


BASE = "--model 7b "


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("--per_device_train_batch_size 4", "batch", 4), ("--batch-size=16", "batch", 16), ("-b 2", "batch", 2),
        ("--batch_size 3", "batch", 3), ("--bs 5", "batch", 5), ("--batch-size auto", "batch", 8),
        ("--batch-size 4 --batch-size 6", "batch", 6), ("--batch-size -3", "batch", 8),
        ("--max_seq_length 256", "sequence", 256), ("--block_size=128", "sequence", 128),
        ("--seq-len 64", "sequence", 64), ("--epochs 3", "sequence", 1024),
        ("", "precision", "fp32"), ("--bf16", "precision", "amp"), ("--fp16 True", "precision", "amp"),
        ("--bf16 false", "precision", "fp32"), ("--precision bf16", "precision", "bf16"),
        ("--precision bf16-mixed", "precision", "amp"), ("--precision 16", "precision", "amp"),
        ("--mixed_precision fp16", "precision", "amp"), ("--mixed_precision no", "precision", "fp32"),
        ("--torch_dtype bfloat16 --bf16", "precision", "bf16"), ("--dtype float32", "precision", "fp32"),
        ("--optim adamw_bnb_8bit", "optimizer", "adam8bit"), ("--optim paged_adamw_8bit", "optimizer", "adam8bit"),
        ("--optim adamw_torch_fused", "optimizer", "adamw"), ("--optimizer SGD", "optimizer", "sgd"),
        ("--optim adafactor", "optimizer", "adafactor"), ("--optim lion", "optimizer", "adamw"),
        ("--lora", "method", "lora"), ("--use_lora true", "method", "lora"), ("--use_lora=false", "method", "full"),
        ("--peft lora", "method", "lora"), ("--qlora", "method", "qlora"), ("--use_peft", "method", "lora"),
        ("--lora --load_in_4bit", "method", "qlora"), ("--method full --lora", "method", "full"),
        ("--gradient_checkpointing", "checkpointing", True), ("--no-gradient-checkpointing", "checkpointing", False),
        ("--gradient_checkpointing False", "checkpointing", False),
        ("", "sharding", "ddp"), ("--fsdp full_shard", "sharding", "fsdp"), ("--fsdp", "sharding", "fsdp"),
        ("--fsdp shard_grad_op", "sharding", "zero2"), ("--deepspeed conf/ds_zero3.json", "sharding", "zero3"),
        ("--deepspeed zero_1", "sharding", "zero1"), ("--deepspeed ds.json", "sharding", "zero2"),
        ("--strategy deepspeed_stage_2", "sharding", "zero2"), ("--deepspeed --zero-stage 3", "sharding", "zero3"),
        ("--deepspeed --zero-stage 0", "sharding", "ddp"), ("--zero-stage 1", "sharding", "zero1"),
    ],
)  # fmt: skip
def test_arguments_in_their_usual_spellings(words: str, field: str, value: object) -> None:
    assert getattr(read(BASE + words), field) == value


def test_the_last_word_counts_and_the_model_is_found_among_others() -> None:
    assert read("--model_name_or_path=gpt2 --model ./out").model == "gpt2"
    assert read("--model gpt2 --model opt-350m").parameters == 350_000_000


def test_what_is_not_said_is_said_to_be_assumed() -> None:
    assert read("--model 7b", 2).assumed == (
        "precision fp32", "optimizer AdamW", "batch of 8 on each GPU", "sequences of 1024 tokens",
    )  # fmt: skip
    assert read("--model 7b --lora").assumed[0] == "precision bf16"
    assert read("--model 7b --bf16 --optim sgd --bs 1 --seq-len 8").assumed == ()
    assert "images of 224 x 224" in read("--arch resnet50").assumed
    assert read("--model vit-base").sequence == 197


@pytest.mark.parametrize(
    "words", ["", "--epochs 3", "--model", "--model foo", "llama-7b", "--", "- -- ---", "--model="]
)
def test_arguments_without_a_model_say_nothing(words: str) -> None:
    assert read_workload(words.split(), 1) is None


@settings(deadline=None)
@given(st.lists(st.text(max_size=12)))
def test_any_arguments_can_be_read(args: list[str]) -> None:
    workload = read_workload(["--model", "7b", *args], 1)
    assert workload is None or from_model(workload).mib > 0


# --- the past --------------------------------------------------------------------------------------------------------

MODEL = read("--model gpt2 --batch 4 --seq 512")


def test_what_a_person_says_wins_over_what_was_measured_and_that_over_the_model() -> None:
    history = [PastRun("same", 5000, 6000), PastRun("other", 9000, None)]
    assert predict(4000, "same", history, MODEL) == Estimate(
        4000, 4000, 4000, "vram", "as the job says itself (--vram)"
    )
    measured = predict(None, "same", history, MODEL)
    assert measured and (measured.source, measured.low_mib, measured.mib, measured.high_mib) == (
        "measured", 5000, 5000, 5250,
    )  # fmt: skip
    model = predict(None, "new", [], MODEL)
    assert model == from_model(MODEL)
    assert predict(None, "new", history, None) is None


def test_several_equal_runs_make_a_band_of_their_spread() -> None:
    measured = predict(None, "same", [PastRun("same", peak) for peak in (4000, 5000, 0, 4600)], None)
    assert measured and (measured.low_mib, measured.mib, measured.high_mib) == (4000, 5000, 6000)
    assert "3 runs" in measured.detail


def test_the_model_is_corrected_by_how_other_runs_came_out() -> None:
    plain = from_model(MODEL)
    once = corrected(MODEL, [PastRun("a", 800, 1000), PastRun("b", 700, None), PastRun("c", 0, 1000)])
    assert once.mib == pytest.approx(plain.mib * 0.8, abs=1)
    assert once.low_mib == pytest.approx(plain.low_mib * 0.8, abs=1)
    assert once.high_mib == pytest.approx(plain.high_mib * 0.8, abs=1)
    often = corrected(MODEL, [PastRun("a", peak, 1000) for peak in (800, 900, 1000, 1100, 1200)])
    assert often.mib == plain.mib
    assert often.low_mib == pytest.approx(plain.mib * 0.84, abs=1)
    assert often.high_mib == pytest.approx(plain.mib * 1.16, abs=1)
    assert sum(term.mib for term in once.terms) == once.mib and formula_mib(once) == plain.mib
    assert "1 past run on this cluster" in once.detail


@settings(deadline=None)
@given(WORKLOADS, st.lists(st.tuples(st.integers(0, 10**6), st.none() | st.integers(0, 10**6)), max_size=9))
def test_whatever_happened_before_the_band_holds_the_middle(
    workload: Workload, past: list[tuple[int, int | None]]
) -> None:
    estimate = corrected(workload, [PastRun("a", peak, predicted) for peak, predicted in past])
    assert estimate.low_mib <= estimate.mib <= estimate.high_mib
    assert sum(term.mib for term in estimate.terms) == estimate.mib


# --- what would fit --------------------------------------------------------------------------------------------------


def test_fits_tight_and_does_not() -> None:
    estimate = Estimate(1000, 900, 1200, "model", "")
    assert [fit(estimate, memory) for memory in (1200, 1199, 1000, 999)] == [
        Fit.FITS, Fit.TIGHT, Fit.TIGHT, Fit.DOES_NOT,
    ]  # fmt: skip


def test_alternatives_fit_and_stand_from_the_cheapest_to_the_one_that_changes_most() -> None:
    workload = read("--model gpt2 --batch 16 --seq 1024", gpus=2)
    found = alternatives(workload, 8 * GIB, 2)
    assert [words.split(" with ")[0] for words, _ in found][:3] == [
        "batch 1", "gradient checkpointing", "8-bit Adam and gradient checkpointing",
    ]  # fmt: skip
    assert all(fit(estimate, 8 * GIB) is Fit.FITS for _, estimate in found)
    assert alternatives(read("--model gpt2 --batch 1 --seq 128"), 8 * GIB, 2) == []


def test_a_change_that_keeps_the_batch_ends_the_list() -> None:
    found = alternatives(read("--model opt-350m --batch 4 --seq 512", gpus=2), 12 * GIB, 2)
    assert [words for words, _ in found] == ["batch 1", "gradient checkpointing"]


@settings(deadline=None)
@given(WORKLOADS, st.integers(1, 200_000), st.integers(1, 8))
def test_every_alternative_fits(workload: Workload, memory: int, gpus: int) -> None:
    assert all(words and fit(other, memory) is Fit.FITS for words, other in alternatives(workload, memory, gpus))


def test_alternatives_know_the_cluster_s_past() -> None:
    history = [PastRun("a", 500, 1000)] * 3
    assert fitting_batch(MODEL, 8 * GIB, history) > fitting_batch(MODEL, 8 * GIB)


def test_why_it_does_not_fit_in_words() -> None:
    workload = read("--model llama-7b --batch 1 --seq 512", gpus=2)
    said = explain(from_model(workload), workload, "RTX 4060", 8 * GIB, 2)
    assert said is not None
    assert said.startswith(
        "llama-7b does not train in 8.0 GiB (RTX 4060) by plain DDP: it needs about 141.3 GiB on each GPU"
    )
    assert "weights 25.1 GiB, gradients 25.1 GiB, DDP buckets 25.1 GiB" in said
    assert said.endswith("what would fit: QLoRA and gradient checkpointing (6.0 GiB)")


def test_words_where_it_is_tight_fits_or_nothing_is_known_of_the_model() -> None:
    estimate = Estimate(1000, 1000, 1200, "measured", "the most that the last run with the same arguments took")
    assert explain(estimate, None, "A", 1200, 1) is None
    assert explain(estimate, None, "A", 1100, 1) == (
        "it barely fits 1.1 GiB (A): it needs about 1000 MiB on each GPU (1000 MiB to 1.2 GiB), "
        "the most that the last run with the same arguments took"
    )
    large = read("--model 70b --fsdp --lora --bf16", gpus=2)
    said = explain(from_model(large), large, "A", 8 * GIB, 2)
    assert said and " by LoRA with FSDP over 2 GPUs: " in said and said.endswith("would make it fit")
