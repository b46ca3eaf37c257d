"""Real PostgreSQL and Redis-compatible servers for the demo and the tests, from wheels or from the PATH.

Here belongs whatever finds, starts, watches and ends such a server: where its programs lie, that it ends with the
process that wanted it, and that it leaves nothing behind. What is kept *in* a server belongs to ``stores`` and
``sources``; no phase needs anything from here.
"""

from agui_pipelines.embedded.postgres import EmbeddedPostgres
from agui_pipelines.embedded.redis import EmbeddedRedis

__all__ = ["EmbeddedPostgres", "EmbeddedRedis"]
