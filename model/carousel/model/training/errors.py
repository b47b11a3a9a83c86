"""The errors of training: what is wrong is in the job, not in what a caller gave.

TrainingError(Exception)
├── CheckpointError   a checkpoint that is damaged or of another job
└── DivergedError     losses or gradients that stay not finite, whatever is done
"""


class TrainingError(Exception):
    """A job cannot go on; the message says why."""


class CheckpointError(TrainingError):
    """A checkpoint that is damaged or of another job."""


class DivergedError(TrainingError):
    """Losses or gradients that stay not finite, whatever is done."""
