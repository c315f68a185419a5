"""What Alembic runs: the migrations of the shop's own tables, beside those of sitq."""

import asyncio

from alembic import context
from sqlalchemy import Connection

import shop
import sitq


def migrate(connection: Connection) -> None:
    """Run the command over this connection."""
    context.configure(connection, target_metadata=shop.Base.metadata, include_object=sitq.include_object)
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_migrate() -> None:
    """Run the command on the app's engine."""
    async with shop.engine.connect() as connection:
        await connection.run_sync(migrate)
    await shop.engine.dispose()


asyncio.run(connect_and_migrate())
