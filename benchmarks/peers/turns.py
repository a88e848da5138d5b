"""A callback that stops a trainer of transformers between two steps until the next turn."""

from common import Channel
from transformers import TrainerCallback


class Turns(TrainerCallback):
    """`figures`: what goes into the reports beside time and memory; fill it as you go."""

    def __init__(self, channel: Channel, figures: dict):
        self.channel, self.figures = channel, figures

    def on_train_begin(self, *args, **kwargs):
        self.channel.reply(seconds=0.0)
        self.channel.wait()

    def on_step_end(self, *args, **kwargs):
        self.channel.reply(**self.figures)
        self.channel.wait()
