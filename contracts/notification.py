"""What a bucket publishes: an object was written."""

from __future__ import annotations

from enum import StrEnum

from pydantic import ConfigDict, Field

from contracts.attributes import AttributesContract


class EventType(StrEnum):
    """The events of Cloud Storage; only the first starts work."""

    FINALIZE = "OBJECT_FINALIZE"
    METADATA_UPDATE = "OBJECT_METADATA_UPDATE"
    DELETE = "OBJECT_DELETE"
    ARCHIVE = "OBJECT_ARCHIVE"
    INITIALIZE = "OBJECT_INITIALIZE"


class StorageNotification(AttributesContract):
    """The attributes of a Cloud Storage notification; its body is optional and not needed."""

    model_config = ConfigDict(extra="ignore")

    event_type: str = Field(alias="eventType", min_length=1)
    bucket: str = Field(alias="bucketId", min_length=3, max_length=222)
    name: str = Field(alias="objectId", min_length=1, max_length=1024)
    generation: int = Field(alias="objectGeneration", gt=0, lt=2**63)
    payload_format: str = Field(default="NONE", alias="payloadFormat")
