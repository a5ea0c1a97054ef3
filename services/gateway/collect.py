"""`python -m services.gateway.collect [--dry-run]`: deletes files and records whose time is over, once; says which.

Takes the gateway's own settings: database, artifact store and how long what is kept. With --dry-run nothing is changed.
Exit status 1: it could not be done, or not wholly.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from dataclasses import dataclass

from libs.errors import SoundstageError
from services.gateway.collectable import Collectable
from services.gateway.collector import Collector, Doomed
from services.gateway.database import Database
from services.gateway.retention import Why
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import open_artifacts, retention_of

MOST_COUNTED = 1_000_000


@dataclass
class Total:
    videos: int = 0
    files: int = 0
    size_bytes: int = 0

    def add(self, doomed: Doomed) -> None:
        self.videos += 1
        self.files += len(doomed.keys)
        self.size_bytes += doomed.size_bytes


async def main(arguments: argparse.Namespace) -> int:
    settings = GatewaySettings(role="api")  # whatever the role: no stage is called
    database = Database(settings.database_url)
    try:
        await database.migrate()
        collector = Collector(Collectable(database), open_artifacts(settings), retention_of(settings))
        await _collect(collector, arguments)
    except SoundstageError as error:
        print(f"{error} ({error.reason})", file=sys.stderr)
        return 1
    finally:
        await database.close()
    return 0


async def _collect(collector: Collector, arguments: argparse.Namespace) -> None:
    totals: defaultdict[Why, Total] = defaultdict(Total)
    sources = [collector.expired()]
    if not arguments.no_orphans:
        sources.append(collector.orphans(however_many=arguments.however_many))
    for source in sources:
        async for doomed in source:
            if not arguments.dry_run:
                await collector.delete(doomed)
            if doomed.keys:
                totals[doomed.why].add(doomed)
                for key in doomed.keys:
                    print(f"{doomed.why:<12}  {key}")
    done = "would delete" if arguments.dry_run else "deleted"
    for why, total in totals.items():
        print(f"{done} {why}: {total.files} files of {total.videos} videos, {total.size_bytes} bytes")
    whole = sum(total.size_bytes for total in totals.values())
    print(f"{done} {sum(total.files for total in totals.values())} files, {whole} bytes")
    records = len(await collector.forgettable(MOST_COUNTED)) if arguments.dry_run else await collector.forget()
    print(f"{done} the records of {records} videos")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.gateway.collect", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.add_argument("--no-orphans", action="store_true", help="do not look through the whole store")
    parser.add_argument("--however-many", action="store_true", help="delete orphans even if most files are some")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parse())))
