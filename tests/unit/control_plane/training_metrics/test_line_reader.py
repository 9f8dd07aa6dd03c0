"""Tests of what is read from the lines of real trainers. Shapes are from public logs, values are not."""

from __future__ import annotations

import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.models.metrics import Reading, SeriesSource
from ugro.control_plane.training_metrics.line_reader import MOST_SERIES, THROUGHPUT, LineReader

NAN, INF = math.nan, math.inf

LINES: dict[str, tuple[str, int | None, dict[str, float]]] = {
    "hf 4": (
        "{'loss': 0.4211, 'grad_norm': 1.93, 'learning_rate': 4.8e-05, 'epoch': 0.32}",
        None,
        {"loss": 0.4211, "grad_norm": 1.93, "learning_rate": 4.8e-05},
    ),
    "hf 5 has strings": (
        "{'loss': '0.7157', 'grad_norm': '12.79', 'learning_rate': '0', 'epoch': '0.1333'}",
        None,
        {"loss": 0.7157, "grad_norm": 12.79, "learning_rate": 0.0},
    ),
    "hf evaluation": (
        "{'eval_loss': 0.41, 'eval_runtime': 3.21, 'epoch': 1.0}",
        None,
        {"eval_loss": 0.41, "eval_runtime": 3.21},
    ),
    "hf end": (
        "{'train_runtime': 812.1, 'train_samples_per_second': 11.2, 'train_loss': 0.44, 'epoch': 3.0}",
        None,
        {"train_runtime": 812.1, "train_samples_per_second": 11.2, "train_loss": 0.44},
    ),
    "axolotl": (
        "{'loss': '2.357', 'grad_norm': '17.91', 'learning_rate': '0', 'ppl': '10.56', "
        "'memory/max_active (GiB)': '16.13', 'tokens/train_per_sec_per_gpu': '0'}",
        None,
        {"loss": 2.357, "grad_norm": 17.91, "learning_rate": 0.0, "ppl": 10.56, "memory/max_active": 16.13}
        | {"tokens/train_per_sec_per_gpu": 0.0},
    ),
    "lightning": (
        "Epoch 0:   6%|█▍   | 86/1563 [00:06<01:44, 14.19it/s, v_num=0, train_loss=1.800, train_acc=0.281]",
        86,
        {"train_loss": 1.8, "train_acc": 0.281},
    ),
    "lightning counts epochs from 0": (
        "Epoch 2:  50%|███ | 50/100 [00:06<01:44, 14.19it/s, v_num=2ch5, train/loss_step=1.80]",
        250,
        {"train/loss_step": 1.8},
    ),
    "lightning, cut in the middle of a number": (
        "Epoch 1:  12%|█▎ | 12/100 [00:10<01:00, 1.2it/s, v_num=0, train_loss=1.420, val_loss=1.4",
        112,
        {"train_loss": 1.42},
    ),
    "lightning, glued": (
        "Epoch 0: 100%|██| 86/86 [00:05<00:00, 162.25it/s, v_num=1, valid_acc=0.946]`Trainer.fit` stopped",
        86,
        {"valid_acc": 0.946},
    ),
    "tqdm without a total": ("300it [07:24,  1.48s/it, loss=2.29]", 300, {"loss": 2.29}),
    "tqdm with values in the title": ("loss 2.31:  10%|██| 10/100 [00:01<00:10,  9.9it/s]", 10, {"loss": 2.31}),
    "tqdm in ascii": (" 51%|##5  | 51/100 [2:12:20<20:11:06, 153.30s/it, loss=1.5]", 51, {"loss": 1.5}),
    "megatron": (
        " [2024-10-16 04:23:00] iteration        2/  500000 | consumed samples:          256 | elapsed time per "
        "iteration (ms): 1811.8 | learning rate: 4.000000E-07 | global batch size:   128 | lm loss: 1.177651E+01 | "
        "loss scale: 1.0 | grad norm: 0.493 | number of skipped iterations:   0 | number of nan iterations:   0 |",
        2,
        {"consumed_samples": 256, "elapsed_time_per_iteration": 1811.8, "learning_rate": 4e-07}
        | {"global_batch_size": 128, "loss": 11.77651, "loss_scale": 1.0, "grad_norm": 0.493}
        | {"number_of_skipped_iterations": 0, "number_of_nan_iterations": 0},
    ),
    "megatron of a new version": (
        "[default7]: [2025-01-02 04:23:00.112485] iteration 3/ 50 | throughput per GPU (TFLOP/s/GPU): 54.1 | "
        "energy per GPU (J/iter/GPU): 51.5 | lm loss: 2.607045E+00 |",
        3,
        {"throughput_per_gpu": 54.1, "energy_per_gpu": 51.5, "loss": 2.607045},
    ),
    "deepspeed": (
        "[2023-08-02 00:41:17,935] [INFO] [logging.py:96:log_dist] [Rank 0] step=10, skipped=10, lr=[0.0001, 0.0002], "
        "mom=[(0.9, 0.999)]",
        10,
        {"skipped": 10, "lr": 0.0001, "mom": 0.9},
    ),
    "deepspeed's timer": (
        "[2023-08-02 00:41:17,936] [INFO] [timer.py:215:stop] epoch=0/micro_step=10/global_step=20, "
        "RunningAvgSamplesPerSec=220.69, CurrSamplesPerSec=222.88, MemAllocated=0.07GB, MaxMemAllocated=1.36GB",
        20,
        {"RunningAvgSamplesPerSec": 220.69, "CurrSamplesPerSec": 222.88, "MemAllocated": 0.07, "MaxMemAllocated": 1.36},
    ),
    "loguru": (
        "2023-08-02 00:41:17.936 | INFO     | __main__:log_dist:54 - [Rank 0] Loss: 10.8766",
        None,
        {"loss": 10.8766},
    ),
    "torchtitan": (
        "[rank0]:[titan] 2025-06-04 08:51:58,557 - root - INFO - \x1b[31mstep: 10\x1b[39m  \x1b[32mloss: 10.7069"
        "\x1b[39m  memory: 30.99GiB(32.62%)  tps: 7,034  tflops: 1,058.93  mfu: 41.19%",
        10,
        {"loss": 10.7069, "memory": 30.99, "tps": 7034.0, "tflops": 1058.93, "mfu": 41.19},
    ),
    "torchtune": (
        "Step 33 | loss:1.5400923490524292 lr:9.9e-05 tokens_per_second_per_gpu:101.22285588141214",
        33,
        {"loss": 1.5400923490524292, "lr": 9.9e-05, "tokens_per_second_per_gpu": 101.22285588141214},
    ),
    "mmengine": (
        "11/08 15:58:16 - mmengine - INFO - Epoch(train) [2][   50/30895]  base_lr: 7.9760e-05 lr: 7.9760e-05  "
        "eta: 2 days, 7:32:05  time: 1.0788  data_time: 0.0849  memory: 15079  grad_norm: nan  loss: 859.5978",
        30945,
        {"base_lr": 7.976e-05, "lr": 7.976e-05, "time": 1.0788, "data_time": 0.0849, "memory": 15079.0}
        | {"grad_norm": NAN, "loss": 859.5978},
    ),
    "mmengine's validation": (
        "11/08 15:58:16 - mmengine - INFO - Epoch(val) [1][100/100]    coco/bbox_mAP: 0.3120  data_time: 0.01",
        None,
        {"val/coco/bbox_mAP": 0.312, "val/data_time": 0.01},
    ),
    "nanogpt": (
        "iter 10: loss 3.1234, time 123.45ms, mfu -100.00%",
        10,
        {"loss": 3.1234, "time": 123.45, "mfu": -100.0},
    ),
    "nanogpt's evaluation": (
        "step 250: train loss 2.9, val loss 3.0",
        250,
        {"train_loss": 2.9, "val_loss": 3.0},
    ),
    "a unit and no name": (
        "[rank 0] step 40/200 epoch 1 loss 1.8933 lr 2.74e-03 45.1k tok/s, 1,024 samples/sec, 1.5M img/s, 12.5it/s",
        40,
        {
            "loss": 1.8933,
            "lr": 2.74e-03,
            "tokens_per_second": 45100.0,
            "samples_per_second": 1024.0,
            "images_per_second": 1.5e6,
            "steps_per_second": 12.5,
        },
    ),
    "a unit behind a name": (
        "step 4 loss 1.5 speed: 45k tok/s, 900 tok/s/gpu at 1/2 it/s",
        4,
        {"loss": 1.5, "speed": 45000.0},
    ),
    "nanochat": (
        "step 00309/21400 (1.44%) | loss: 3.452771 | lrm: 0.00 | dt: 1014ms | tok/sec: 129,238 | mfu: 18.3% | "
        "epoch: 1 | total time: 3.20m | remaining: 36s",
        309,
        {"loss": 3.452771, "lrm": 0.0, "dt": 1014.0, "tok/sec": 129238.0, "mfu": 18.3},
    ),
    "fairseq": (
        "2023-06-13 17:31:08 | INFO | train_inner | epoch 143:     85 / 282 loss=3.147, nll_loss=1.236, ppl=8.86, "
        "num_updates=40100, lr=0.000157917, gnorm=0.489",
        40100,
        {"loss": 3.147, "nll_loss": 1.236, "ppl": 8.86, "lr": 0.000157917, "gnorm": 0.489},
    ),
    "detectron2": (
        "[11/07 14:28:51] d2.utils.events INFO:  eta: 19:25:50  iter: 79  total_loss: 321.3  loss_ce: 0.9114  "
        "data_time: 0.01  lr: 0.0005",
        79,
        {"total_loss": 321.3, "loss_ce": 0.9114, "data_time": 0.01, "lr": 0.0005},
    ),
    "timm": (
        "Train: 0 [  25/1251 (  2%)]  Loss: 6.95 (6.95)  Time: 1.2s,  800.1/s (800.1/s)  LR: 1.000e-05",
        25,
        {"loss": 6.95, "Time": 1.2, "LR": 1e-05},
    ),
    "imagenet example": (
        "Epoch: [0][  10/5005]\tTime  0.512 ( 1.123)\tLoss 7.0e+00 (7.1e+00)\tAcc@1   0.00 (  0.10)",
        10,
        {"Time": 0.512, "loss": 7.0, "Acc@1": 0.0},
    ),
    "mnist example": ("Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.305", 640, {"loss": 2.305}),
    "key=value": ("epoch=3 step=400 loss=0.52 lr=1e-4", 400, {"loss": 0.52, "lr": 1e-4}),
    "key: value": ("steps: 12 loss: 8.5 iter time (s): 0.5", 12, {"loss": 8.5, "time": 0.5}),
    "key value": ("step 12/100 epoch 1 loss 2.8869 lr 1.50e-03", 12, {"loss": 2.8869, "lr": 1.5e-03}),
    "only an epoch": ("Epoch 3 | Loss: 0.52", 3, {"loss": 0.52}),
    "epochs in words": (
        "Epoch 3/20 - Train Loss: 0.52, Val Loss: 0.61, Val Acc: 91.2%",
        3,
        {"train_loss": 0.52, "val_loss": 0.61, "val_acc": 91.2},
    ),
    "json": (
        '{"step": 12, "loss": NaN, "lr": 1.E-05, "at": "2024-01-01", "none": null}',
        12,
        {"loss": NAN, "lr": 1e-05},
    ),
    "values of libraries": (
        "step: 3 loss: np.float64(2.3) a: tensor(2.31, device='cuda:0') b: tensor([1.5, 2.5]) "
        "c: tensor(2.3, grad_fn=<X>)",
        3,
        {"loss": 2.3, "a": 2.31, "b": 1.5, "c": 2.3},
    ),
    "not finite": ("step 3 loss=inf a=-inf b=nan c=NaN", 3, {"loss": INF, "a": -INF, "b": NAN, "c": NAN}),
    "a list is no thousand": ("step 3 loss=[1,234] n=1,234", 3, {"loss": 1.0, "n": 1234.0}),
    "validation in words": ("Validation: loss=0.4 acc=0.9", None, {"val/loss": 0.4, "val/acc": 0.9}),
    "places are no values": ("[1,mpirank:2] train.py:12 cuda.cu:3 step 5 loss: 2.5", 5, {"loss": 2.5}),
    "python's logging": ("INFO:root:loss=0.5", None, {"loss": 0.5}),
    "ray": ("(RayTrainWorker pid=932, ip=10.0.0.7) epoch 2 loss 1.8", 2, {"loss": 1.8}),
    "speed after the values": ("2026-03-01 10:01:07 [INFO] step 10 loss 2.880 1.7 s/it", 10, {"loss": 2.88}),
    "glued to another rank's text": (
        "{'loss': 2.1, 'epoch': 0.1}19.11s/it[rank1]:[E ProcessGroup",
        None,
        {"loss": 2.1},
    ),
}


def _only(readings: list[Reading]) -> tuple[set[int | None], dict[str, float]]:
    return {one.step for one in readings}, {one.name: one.value for one in readings}


@pytest.mark.parametrize("line, step, values", LINES.values(), ids=LINES)
def test_reads_the_line_of_a_trainer(line: str, step: int | None, values: dict[str, float]) -> None:
    steps, found = _only(LineReader().feed(line + "\n", 5.0))
    assert found == pytest.approx(values, nan_ok=True)
    assert list(found) == list(values)
    assert steps == {step}


@pytest.mark.parametrize(
    "line",
    [
        "", "batch_size=32 seed=1 max_steps=500 lr=0.1", "Namespace(lr=0.1, epochs=3, loss='mse', loss_weight=2)",
        "Loading checkpoint shards:  50%|█ | 1/2 [00:01<00:01, 2.0it/s, loss=3]", "rank 0 of 3 val_port=3",
        "Validation DataLoader 0:  50%|█ | 1/2 [00:01<00:01, 2.0it/s, loss=3]",
        "2024-10-16 04:23:00 listening on 10.0.0.1:8080",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 23.68 GiB total)", "loss: none",
        "eta: 2 days, 7:32:05",
    ],
)  # fmt: skip
def test_reads_nothing_from_other_lines(line: str) -> None:
    assert LineReader().feed(line + "\n", 5.0) == []


def test_tells_units_and_converts_to_the_first_one() -> None:
    reader = LineReader()
    text = "step 1 loss 2 time 500ms mfu: 41.19% mem: 4.5GiB\nstep 2 loss 1 time 1.5s mfu: 40% mem: 512MiB\n"
    found = [(one.name, one.value, one.unit) for one in reader.feed(text, 0.0) if one.name != "loss"]
    assert found == [
        ("time", 500.0, "ms"), ("mfu", 41.19, "%"), ("mem", 4.5, "GiB"),
        ("time", 1500.0, "ms"), ("mfu", 40.0, "%"), ("mem", 0.5, "GiB"),
    ]  # fmt: skip


def test_takes_the_step_of_a_line_without_one_from_the_bar_before_it() -> None:
    reader = LineReader()
    text = "  1%|▏ | 10/1000 [00:05<08:20,  1.98it/s]\r                \r{'loss': 0.7, 'epoch': 0.01}\n"
    text += "  2%|▏ | 20/1000 [00:10<08:20,  1.98it/s]{'loss': 0.6, 'epoch': 0.02}\n"
    text += "  5%|x| 1/20 [00:01<00:20,  1.0it/s]\r {'eval_loss': 0.5, 'epoch': 0.02}\n"
    assert [(one.name, one.step) for one in reader.feed(text, 0.0)] == [("loss", 10), ("loss", 20), ("eval_loss", 20)]
    progress = reader.progress
    assert progress and (progress.step, progress.steps, progress.epoch) == (20, 1000, 0.02)


def test_reads_a_bar_once_a_second() -> None:
    reader = LineReader()
    bar = "train:  {n}%|x | {n}/100 [00:05<08:20,  1.98it/s, loss={n}]\r"
    first = [bar.format(n=n) for n in range(1, 50)]
    assert [(one.value, one.step) for one in reader.feed("".join(first), 10.0)] == [(49.0, 49)]
    assert reader.feed(bar.format(n=50), 10.5) == []
    found = reader.feed(bar.format(n=51), 11.0)
    assert [(one.value, one.step, one.source) for one in found if one.name == "loss"] == [(51.0, 51, SeriesSource.BAR)]


def test_counts_on_over_epochs_of_a_bar_that_begins_again() -> None:
    reader = LineReader()
    for at, n in enumerate((1, 50, 99, 2, 60)):
        reader.feed(f" {n}%|x | {n}/100 [00:05<08:20,  1.98it/s, loss=1]\r", float(at * 2))
    assert reader.progress and (reader.progress.step, reader.progress.steps) == (160, None)


def test_reads_the_table_of_ultralytics() -> None:
    reader = LineReader()
    text = """\
      Epoch    GPU_mem   box_loss   cls_loss   dfl_loss  Instances       Size
       1/20      1.19G      1.018      3.009      1.465          2        640: 100% 4/4 [00:01<00:00,  2.66it/s]
                 Class     Images  Instances      Box(P          R      mAP50  mAP50-95): 100% 1/1 [00:00<00:00, 2it/s]
                   all        128        929      0.640      0.537      0.605      0.446
      Epoch    GPU_mem   box_loss   cls_loss   dfl_loss  Instances       Size
       2/20      1.19G        nan      2.009      1.465          2        640: 100% ━━━━━━━━━━━━ 4/4 4.5it/s 49.5s
"""
    found = []
    for at, line in enumerate(text.splitlines(keepends=True)):
        found += reader.feed(line, at * 2.0)
    values = {(one.name, one.step): one.value for one in found if one.source != SeriesSource.DERIVED}
    assert values == pytest.approx(
        {("GPU_mem", 4): 1.19, ("box_loss", 4): 1.018, ("cls_loss", 4): 3.009, ("dfl_loss", 4): 1.465}
        | {("val/P", 4): 0.64, ("val/R", 4): 0.537, ("val/mAP50", 4): 0.605, ("val/mAP50-95", 4): 0.446}
        | {("GPU_mem", 8): 1.19, ("box_loss", 8): NAN, ("cls_loss", 8): 2.009, ("dfl_loss", 8): 1.465},
        nan_ok=True,
    )
    progress = reader.progress
    assert progress and (progress.step, progress.steps, progress.epoch, progress.epochs) == (8, 80, 2.0, 20)


def test_reads_lines_that_come_in_pieces() -> None:
    text = "".join(line + "\n" for line, *_ in LINES.values() if "it/s" not in line and "s/it" not in line)
    whole, pieces = LineReader(), LineReader()
    found = [one for at in range(0, len(text), 7) for one in pieces.feed(text[at : at + 7], 1.0)]
    assert repr(found) == repr(whole.feed(text, 1.0))


def test_derives_the_throughput_without_pauses() -> None:
    reader, at, found = LineReader(), 0.0, []
    for step in range(0, 200, 10):
        found += reader.feed(f"step {step} loss 2.0\n", at)
        at += 60.0 if step == 100 else 5.0  # a checkpoint
    paces = [one for one in found if one.name == THROUGHPUT]
    assert {one.value for one in paces} == {2.0}
    assert {one.source for one in paces} == {SeriesSource.DERIVED}
    assert 110 not in {one.step for one in paces}
    assert reader.progress and reader.progress.rate == 2.0


def test_derives_no_throughput_where_the_script_prints_one() -> None:
    reader = LineReader()
    found = [one for step in range(9) for one in reader.feed(f"step: {step} loss: 2.0 tps: 7,034\n", step * 5.0)]
    assert {one.name for one in found} == {"loss", "tps"}


def test_drops_series_above_the_limit_and_counts_them() -> None:
    reader = LineReader()
    found = reader.feed("".join(f"step 1 loss_of_layer_{number}=1\n" for number in range(MOST_SERIES + 7)), 0.0)
    assert len({one.name for one in found}) == MOST_SERIES
    assert len(reader.dropped) == 7
    name = LineReader().feed(f"step 1 loss_{'x' * 200}=1 loss=2\n", 0.0)[0].name
    assert len(name) <= 80


@given(st.lists(st.text() | st.sampled_from([line for line, *_ in LINES.values()]) | st.sampled_from("\r\n=:|%[")))
def test_no_text_raises(parts: list[str]) -> None:
    reader = LineReader()
    for at, part in enumerate(parts):
        reader.feed(part, float(at))
    assert reader.progress is None or reader.progress.at >= 0


@pytest.mark.parametrize(
    "unit", ["loss ", "step 1 ", "a=", "loss: 1,", "epoch[1][", "x" * 40 + " ", "1/1 [", "it/s [", "val loss| "]
)
def test_takes_linear_time(unit: str) -> None:
    def seconds(length: int) -> float:
        line = "step 1 loss: 2 it/s" + (unit * length)[:length]
        best = math.inf
        for _ in range(3):
            begin = time.thread_time()
            LineReader().feed((line + "\n") * 20, 0.0)
            best = min(best, time.thread_time() - begin)
        return best

    assert seconds(1900) < 40 * seconds(190) + 0.01
    assert seconds(1_000_000) < 2.0


def test_reads_no_bytes_of_a_binary_file() -> None:
    noise = random.Random(1).randbytes(200_000).decode("latin-1")
    assert len(LineReader().feed(noise, 0.0)) < 10
