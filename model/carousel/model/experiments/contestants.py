"""The networks that are compared: one layer each, with what is special about how they begin."""

import torch

from carousel.model.config import Cell, ModelConfig
from carousel.model.experiments.tasks import Task
from carousel.model.network import Network

CELLS: dict[str, Cell] = {
    "RNN tanh": "rnn_tanh",
    "LSTM, forget bias 0": "lstm",
    "LSTM, forget bias 1": "lstm",
    "LSTM, chrono": "lstm",
    "GRU": "gru",
}
LEARNERS = ("RNN tanh", "LSTM, forget bias 0", "LSTM, chrono", "GRU")


def make(name: str, task: Task, hidden: int, seed: int) -> Network:
    """One of CELLS for a task, with `hidden` units; the seed decides every weight."""
    config = ModelConfig(
        cell=CELLS[name], layers=1, hidden_size=hidden, input=task.input, head=task.head
    )
    torch.manual_seed(seed)
    network = Network(config)  # its own forget bias is 1
    if name == "LSTM, forget bias 0":
        network.set_forget_bias(0.0)
    elif name == "LSTM, chrono":
        network.set_chrono_bias(task.steps)
    return network
