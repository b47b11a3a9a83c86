"""Errors of requests that no state of the server could satisfy."""

from __future__ import annotations

import grpc

from carousel.errors._base import CarouselError


class InvalidArgument(CarouselError):
    """A request that no state of the server could satisfy."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class InvalidField(InvalidArgument):
    """A field is missing, malformed or out of its range."""

    reason = "INVALID_FIELD"


class TensorMalformed(InvalidArgument):
    """A tensor's type, shape and bytes do not fit together."""

    reason = "TENSOR_MALFORMED"


class InputMismatch(InvalidArgument):
    """The inputs are not what the model takes, in type, width or number."""

    reason = "INPUT_MISMATCH"


class NonFiniteInput(InvalidArgument):
    """An input is NaN or infinite."""

    reason = "NON_FINITE_INPUT"


class TokenOutOfRange(InvalidArgument):
    """A token is negative, at or above the vocabulary's size, or a character is not in it."""

    reason = "TOKEN_OUT_OF_RANGE"


class ChunkTooLong(InvalidArgument):
    """An item has more steps than the server takes at once, or none."""

    reason = "CHUNK_TOO_LONG"


class MixedModels(InvalidArgument):
    """An item's session is of another model version than the message's first session."""

    reason = "MIXED_MODELS"


class NotGenerative(InvalidArgument):
    """Only a model from tokens to a softmax over the same tokens can generate."""

    reason = "NOT_GENERATIVE"


class DatasetInvalid(InvalidArgument):
    """The data can't be learned from; `row` and `column` of the metadata say where, if known."""

    reason = "DATASET_INVALID"
