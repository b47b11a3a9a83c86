"""When work is sent again, and how long to wait before."""

from __future__ import annotations

import json
import random

import grpc

ATTEMPTS = 4
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 1.0

STORE_PAUSE = 0.25
"""Seconds until a step that is committed and not stored yet is asked for again."""

# A stream, or a step, that ends like this is sent again at the same step index. CANCELLED is what
# proxies make of a dead server; INTERNAL is a stream reset, or gRPC's own report of a call that
# broke while it was written to.
RESENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


def delay(attempt: int) -> float:
    """Seconds to wait before attempt 1, 2, ...: doubling, with a fifth of jitter."""
    longest = min(_FIRST_DELAY * 2.0 ** (attempt - 1), _LONGEST_DELAY)
    return longest * random.uniform(0.8, 1.2)


_INFERENCE, _MODELS, _TRAINING = (
    f"carousel.v1.{name}Service" for name in ("Inference", "Model", "Training")
)

# gRPC itself retries UNAVAILABLE, but not these: steps, and generations from where they broke, are
# sent again by the client, which knows their outcome better and can tell the hook; an upload has
# too much to keep; a job that was resumed unseen can't be resumed again, and a checkpoint that was
# promoted unseen would become two versions.
_NOT_RETRIED = (
    (_INFERENCE, "Step"),
    (_INFERENCE, "StreamSteps"),
    (_INFERENCE, "Generate"),
    (_MODELS, "UploadModelVersion"),
    (_TRAINING, "UploadDataset"),
    (_TRAINING, "ResumeJob"),
    (_TRAINING, "PromoteCheckpoint"),
)

SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {"name": [{"service": s, "method": m} for s, m in _NOT_RETRIED]},
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": ATTEMPTS,
                    "initialBackoff": f"{_FIRST_DELAY}s",
                    "maxBackoff": f"{_LONGEST_DELAY}s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)
