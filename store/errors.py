"""The errors that store raises.

StoreError
├── SettingsError        a setting is missing or wrong; names the variable and the remedy
├── Unavailable          an attached resource does not answer (retryable)
│   ├── DatabaseUnavailable
│   │   └── NewerSchema      a later release has migrated the database
│   ├── RedisUnavailable
│   └── BlobsUnavailable
├── StorageFull          no space is left where blobs live
├── BlobNotFound         no blob has this key
├── BackupError          a backup can't be made or restored here; says what stands in the way
│   └── BackupDamaged        a file of the backup is missing or not what was written
├── JobNotFound          no job has this id
├── TargetRefused        a webhook may not go there
├── InvalidTransition    the job's state does not allow this step
├── KeyNotFound          no API key has this id
├── LastAdminKey         without it nobody could make keys any more
└── LeaseLost            another worker owns the job by now; nothing of the late work is kept
"""


class StoreError(Exception):
    """Base of every error that store raises."""


class SettingsError(StoreError):
    """A setting is missing or wrong."""


class Unavailable(StoreError):
    """An attached resource does not answer; trying again later may help."""


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""


class NewerSchema(DatabaseUnavailable):
    """A later release has migrated the database, so this one should not start on it."""


class RedisUnavailable(Unavailable):
    """Redis does not answer."""


class BlobsUnavailable(Unavailable):
    """The blob storage can't be read or written."""


class StorageFull(StoreError):
    """No space is left where blobs live."""


class BlobNotFound(StoreError):
    """No blob has this key."""


class BackupError(StoreError):
    """A backup can't be made or restored here."""


class BackupDamaged(BackupError):
    """A file of the backup is missing, or not what was written."""


class JobNotFound(StoreError):
    """No job has this id."""


class TargetRefused(StoreError):
    """A webhook may not go there."""


class InvalidTransition(StoreError):
    """The job's state does not allow this step."""


class KeyNotFound(StoreError):
    """No API key has this id."""


class LastAdminKey(StoreError):
    """Without this key nobody could make keys any more, now or once it has expired."""


class LeaseLost(StoreError):
    """The lease on a job was lost: another worker owns it, or it has ended."""
