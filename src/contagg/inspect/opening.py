"""The model that a command shows: what a task makes of its weights files, or else what any word means."""

from contagg.arguments import load
from contagg.checkpoints.locate import task_of
from contagg.checkpoints.models import Opened, open_model
from contagg.errors import UserError
from contagg.tasks import tasks


def open_shown(model: str, weights: str | None = None) -> Opened:
    """As `open_model`, and a detector's run or weights as well."""
    task = tasks().get(task_of(model) or "")
    if task is None or not task.shown:
        return open_model(model, weights)
    if weights is not None:
        raise UserError(f"{model!r} has weights of its own; give --weights with a model's name only")
    return load(task.shown)(model)
