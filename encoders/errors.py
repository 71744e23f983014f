"""What can go wrong in an encoder.

EncoderError
├── ArtifactMissing      no encoder lies at that address
├── ArtifactDamaged      its files do not have the digest that was asked for
├── UnknownFamily        written by a family that this release does not know
├── EncodeFailed         the tower refused some records; the caller bisects
└── TrainingFailed       training cannot start or go on
    ├── DatasetInvalid   the training data contradicts itself
    └── NotEnoughData    too few users or items to train on
"""

from __future__ import annotations


class EncoderError(Exception):
    """The encoder could not do its work."""


class ArtifactMissing(EncoderError):
    """No encoder lies at that address."""


class ArtifactDamaged(EncoderError):
    """The encoder's files do not have the digest that was asked for."""


class UnknownFamily(EncoderError):
    """The encoder was written by a family that this release does not know."""


class EncodeFailed(EncoderError):
    """The tower refused some records."""


class TrainingFailed(EncoderError):
    """Training cannot start or go on."""


class DatasetInvalid(TrainingFailed):
    """The training data contradicts itself."""


class NotEnoughData(TrainingFailed):
    """There are too few users or items to train on."""
