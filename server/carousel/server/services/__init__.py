"""The services of the API: decode, call, encode."""

from carousel.v1 import (
    admin_service_pb2,
    inference_service_pb2,
    model_service_pb2,
    session_service_pb2,
    training_service_pb2,
)

SERVICES = {
    "admin": admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
    "inference": inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    "model": model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
    "session": session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
    "training": training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"],
}
