"""The peer's side of trl_ppo.py: one PPO update of TRL 1.12.0 for each turn.

Runs in an environment of its own. Four models, as the trainer asks for: policy, value, reward, and
a reference, which with LoRA is the policy with its adapter off. With LoRA the value model is
trained through adapters too (the trainer wraps the policy only), so that nothing is trained in
full on one side and through adapters on the other.
"""

import time

import torch
import transformers
from common import Channel
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl.experimental.ppo import ppo_trainer as module
from turns import Turns

ENDLESS = 1_000_000  # updates; the other end says when to stop


def timed_generation(figures: dict):
    """Note how long sampling took and how many tokens it made."""
    generate = module.batch_generation

    def timed(*args, **kwargs):
        started = time.perf_counter()
        ids, logits = generate(*args, **kwargs)
        figures["sampling"] = time.perf_counter() - started
        figures["tokens"] = logits.shape[0] * logits.shape[1]
        return ids, logits

    module.batch_generation = timed


def lora(settings: dict, **more) -> LoraConfig:
    return LoraConfig(
        r=settings["rank"], lora_alpha=2 * settings["rank"], target_modules="all-linear", **more
    )


def classifier(settings: dict):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(
        settings["folder"], num_labels=1, dtype=torch.float32
    )


def main() -> None:
    channel, figures = Channel(), {}
    settings = channel.settings
    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(settings["folder"], padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(settings["folder"], dtype=torch.float32)
    value = classifier(settings)
    if settings["rank"]:
        config = lora(settings)
        linears = {n for n, m in value.named_modules() if isinstance(m, torch.nn.Linear)}
        config.target_modules = linears - {"score"}  # the head is trained itself
        value = inject_adapter_in_model(config, value)
        value.score.requires_grad_(True)
    timed_generation(figures)
    rows = settings["batch"]
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=settings["output"],
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=1,
            local_rollout_forward_batch_size=rows,
            num_mini_batches=1,
            num_ppo_epochs=settings["epochs"],
            response_length=settings["response"],
            total_episodes=rows * ENDLESS,
            num_sample_generations=0,
            temperature=1.0,
            learning_rate=1e-5,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=ENDLESS,
            disable_tqdm=True,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=classifier(settings),
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": tokenizer(settings["prompts"])["input_ids"]}),
        eval_dataset=Dataset.from_dict({"input_ids": [[4]]}),  # the trainer wants one
        peft_config=lora(settings, task_type="CAUSAL_LM") if settings["rank"] else None,
        callbacks=[Turns(channel, figures)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    figures["trainable"] = trainable
    trainer.train()


if __name__ == "__main__":
    main()
