"""The peer's side of trl_stages.py: one step of TRL 1.16.0's RewardTrainer or SFTTrainer a turn."""

import torch
import transformers
from common import Channel
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from turns import Turns

STAGES = {
    "reward": (RewardTrainer, RewardConfig, AutoModelForSequenceClassification),
    "sft": (SFTTrainer, SFTConfig, AutoModelForCausalLM),
}


def main() -> None:
    channel, figures = Channel(), {}
    settings = channel.settings
    transformers.logging.set_verbosity_error()
    trainer_class, config_class, model_class = STAGES[settings["stage"]]
    reward = settings["stage"] == "reward"
    more = {"num_labels": 1} if reward else {}
    model = model_class.from_pretrained(settings["folder"], dtype=torch.float32, **more)
    if reward:
        model.score.weight.data.copy_(load_file(settings["head"])["weight"])
    lora = LoraConfig(
        r=settings["rank"],
        lora_alpha=2 * settings["rank"],
        target_modules="all-linear",
        task_type="SEQ_CLS" if reward else "CAUSAL_LM",
    )

    class Trainer(trainer_class):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            figures["loss"] = loss.item()
            return loss

    trainer = Trainer(
        model=model,
        args=config_class(
            output_dir=settings["output"],
            per_device_train_batch_size=settings["batch"],
            train_sampling_strategy="sequential",
            learning_rate=1e-5,
            gradient_checkpointing=settings["checkpointing"],
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1_000_000,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(settings["rows"] * settings["steps"]),
        processing_class=AutoTokenizer.from_pretrained(settings["folder"]),
        peft_config=lora if settings["rank"] else None,
        callbacks=[Turns(channel, figures)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
