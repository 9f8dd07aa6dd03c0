"""Words for what of a training decides how much memory it takes."""

PRECISIONS = ("fp32", "amp", "bf16", "fp16")
OPTIMIZERS = ("adamw", "adam8bit", "sgd", "adafactor")
METHODS = ("full", "lora", "qlora")
SHARDINGS = ("ddp", "fsdp", "zero1", "zero2", "zero3")

LARGEST = 9_999_999
"""What is more than this of a batch, of tokens or of GPUs is no such number."""
