"""A database whose every transaction is known outside before the next one begins.

ledger.py write DATABASE...   inserts numbered rows into each database, commits them durably, and
                              then sends "NUMBER CHECKSUM" to the machine outside; never ends
ledger.py check DATABASE      prints the result of integrity_check and "NUMBER CHECKSUM" of every
                              row whose payload has that checksum, "NUMBER wrong" of others
"""

import hashlib
import os
import random
import sqlite3
import sys

PORT = "/dev/virtio-ports/carreto.acks"


def checksum(number, payload):
    return hashlib.sha256(b"%d:" % number + payload).hexdigest()


def open_database(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    # The first keeps its journal beside it and deletes it, the others write ahead.
    database.execute("PRAGMA synchronous=FULL")
    return database


def write(paths):
    databases = [open_database(path) for path in paths]
    for database, mode in zip(databases, ["DELETE"] + ["WAL"] * len(databases)):
        database.execute("PRAGMA journal_mode=" + mode)
        database.execute(
            "CREATE TABLE IF NOT EXISTS entry"
            " (number INTEGER PRIMARY KEY, checksum TEXT NOT NULL, payload BLOB NOT NULL)"
        )
    port = os.open(PORT, os.O_WRONLY)
    last = max(
        database.execute("SELECT coalesce(max(number), 0) FROM entry").fetchone()[0]
        for database in databases
    )
    while True:
        last += 1
        payload = os.urandom(random.randrange(100, 6000))
        known = checksum(last, payload)
        for database in databases:
            row = (last, known, payload)
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO entry VALUES (?, ?, ?)", row)
            database.execute("COMMIT")
        os.write(port, b"%d %s\n" % (last, known.encode()))


def check(path):
    database = sqlite3.connect(path)
    print(database.execute("PRAGMA integrity_check").fetchone()[0])
    rows = database.execute("SELECT number, checksum, payload FROM entry ORDER BY number")
    for number, known, payload in rows:
        found = checksum(number, payload)
        print(number, found if found == known else "wrong")


if sys.argv[1] == "write":
    write(sys.argv[2:])
else:
    check(sys.argv[2])
