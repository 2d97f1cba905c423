"""Reads tables for the tests, by readers that share no code with Millrace.

    read_table.py table FOLDER            the rows of a Delta table, as NDJSON
    read_table.py log FOLDER              its live files, their folder's files and its commits, as JSON
    read_table.py watch FOLDER COLUMN…    reads every new version until stdin ends; a line for each thing that is wrong
                                          (a row that is there twice, a file that is missing), then the versions' number
    read_table.py duckdb QUERY NAME=FILE… DuckDB's answer, as NDJSON; the lines of a gzipped file are the table NAME(line),
                                          the rows of a Delta table's folder the table NAME
    read_table.py compare FOUND EXPECTED NAME=…
                                          the first rows of which one query has more than the other, as NDJSON
"""

import gzip
import json
import os
import sys
import threading
import time
from urllib.parse import unquote, urlparse

import pyarrow as pa


def json_lines(table: pa.Table) -> None:
    def plain(value):
        if isinstance(value, bytes):
            return value.hex()
        return value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else value

    for batch in table.to_batches(10_000):
        rows = ({name: plain(value) for name, value in row.items()} for row in batch.to_pylist())
        sys.stdout.write("".join(json.dumps(row, default=float) + "\n" for row in rows))


def path_of(uri: str) -> str:
    return unquote(urlparse(uri).path) if "://" in uri else uri


def files_below(folder: str) -> list[str]:
    found = []
    for root, _, names in os.walk(folder):
        if "_delta_log" not in os.path.relpath(root, folder).split(os.sep):
            found += [os.path.join(root, name) for name in names]
    return sorted(os.path.realpath(path) for path in found)


def log(folder: str) -> None:
    from deltalake import DeltaTable

    table = DeltaTable(folder)
    live = sorted(os.path.realpath(path_of(uri)) for uri in table.file_uris())
    print(json.dumps({
        "version": table.version(),
        "live": live,
        "files": files_below(folder),
        "history": table.history(),
        "configuration": table.metadata().configuration,
        "partitionColumns": table.metadata().partition_columns,
    }, default=str))


def watch(folder: str, identity: list[str]) -> None:
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError
    import pyarrow.parquet as pq

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    folder = os.path.realpath(folder)
    table, seen_version, versions = None, -1, 0
    by_file: dict[str, list[tuple]] = {}
    owner: dict[tuple, str] = {}
    last_look = False
    while True:
        try:
            if table is None:
                table = DeltaTable(folder)
            else:
                table.update_incremental()
        except TableNotFoundError:
            table = None
        if table is not None and table.version() != seen_version:
            seen_version, versions = table.version(), versions + 1
            live = {os.path.realpath(path_of(uri)) for uri in table.file_uris()}
            for path in set(by_file) - live:
                for key in by_file.pop(path):
                    owner.pop(key, None)
            for path in sorted(live - set(by_file)):
                # What names the partition is in no file.
                of_folder = dict(part.split("=", 1) for part in os.path.relpath(path, folder).split(os.sep)[:-1])
                try:
                    rows = pq.ParquetFile(path).read(columns=[name for name in identity if name not in of_folder])
                except (OSError, pa.ArrowInvalid) as error:
                    print(f"version {seen_version}: cannot read {path}: {error}")
                    continue
                columns = ([of_folder[name]] * len(rows) if name in of_folder else rows.column(name).to_pylist() for name in identity)
                keys = list(zip(*columns))
                by_file[path] = keys
                for key in keys:
                    if key in owner:
                        print(f"version {seen_version}: {key} is in {owner[key]} and in {path}")
                    owner[key] = path
        if last_look:
            break
        last_look = ended.is_set()
        time.sleep(0.02)
    print(versions)


def duckdb_with(tables: list[str]):
    """A connection with the tables that `NAME=PATH` says."""
    import duckdb
    from deltalake import DeltaTable

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name, path in (table.split("=", 1) for table in tables):
        if os.path.isdir(path):
            connection.register(name, DeltaTable(path).to_pyarrow_table())
        else:
            with gzip.open(path, "rt", errors="replace") as file:
                connection.register(name, pa.table({"line": [line.rstrip("\n") for line in file]}))
    return connection


def main() -> None:
    verb, *args = sys.argv[1:]
    if verb == "table":
        from deltalake import DeltaTable

        json_lines(DeltaTable(args[0]).to_pyarrow_table())
    elif verb == "log":
        log(args[0])
    elif verb == "watch":
        watch(args[0], args[1:])
    elif verb == "duckdb":
        json_lines(duckdb_with(args[1:]).sql(args[0]).to_arrow_table())
    elif verb == "compare":
        found, expected, *tables = args
        connection = duckdb_with(tables)
        connection.execute(f"CREATE TABLE found AS {found}")
        connection.execute(f"CREATE TABLE expected AS {expected}")
        columns = ", ".join(name for name, *_ in connection.execute("DESCRIBE expected").fetchall())
        for more, less in (("found", "expected"), ("expected", "found")):
            answer = connection.sql(
                f"SELECT '{more}' AS only_in, * FROM (SELECT {columns} FROM {more} EXCEPT ALL SELECT {columns} FROM {less}) LIMIT 5"
            )
            json_lines(answer.to_arrow_table())
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
    # The threads of the libraries can bring down an interpreter that is tidying up, and there is nothing to tidy.
    sys.stdout.flush()
    os._exit(0)
