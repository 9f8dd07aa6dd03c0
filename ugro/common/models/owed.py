"""A folder on a node that a removed job still has."""

from ugro.common.config import NodeConfig
from ugro.common.models.record import Record


class Owed(Record):
    """A job's folder on a node that is to be removed once the node answers, as the node was reached then."""

    job: str
    uid: str
    config: NodeConfig
