"""Artifacts: tensors and media that stages pass to each other by reference.

One port (`Store`), three stores (`S3Store`, `FolderStore`, `MemoryStore`), opened from a URL by `open_store`.
"""

from libs.artifacts.convert import prefix_from_proto, ref_from_proto, ref_to_proto
from libs.artifacts.folder import FolderStore
from libs.artifacts.memory import MemoryStore
from libs.artifacts.opening import open_store, s3_address
from libs.artifacts.ref import AttemptPrefix, Ref, Stored, checked_key
from libs.artifacts.s3 import S3Address, S3Store
from libs.artifacts.store import Store
from libs.artifacts.tensors import TENSORS_MEDIA_TYPE, get_tensors, put_tensors, to_safetensors

__all__ = [
    "TENSORS_MEDIA_TYPE",
    "AttemptPrefix",
    "FolderStore",
    "MemoryStore",
    "Ref",
    "S3Address",
    "S3Store",
    "Store",
    "Stored",
    "checked_key",
    "get_tensors",
    "open_store",
    "prefix_from_proto",
    "put_tensors",
    "ref_from_proto",
    "ref_to_proto",
    "s3_address",
    "to_safetensors",
]
