"""The floor of a small run: the same libraries, the same requests, the same rows read, and nothing done with them.

`small_script.py BASE_URL DATABASE_URL FILE`; the file has a line for each request's target.
"""

import json
import sys
from pathlib import Path

import requests
import structlog
from sqlalchemy import bindparam, create_engine, text

base_url, url, file = sys.argv[1:]
log = structlog.get_logger()
place = "rostersync." if url.startswith("postgresql") else ""
ids = []
with create_engine(url).connect() as connection:
    connection.execute(text(f"SELECT * FROM {place}source")).all()
    http = requests.Session()
    for target in Path(file).read_text().splitlines():
        answer = http.get(base_url + target, timeout=30)
        ids += [row["id"] for row in json.loads(answer.content).get("students", [])]
    stored = text(f"SELECT * FROM {place}student WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
    rows = connection.execute(stored, {"ids": ids}).all() if ids else []
log.info("done", rows=len(rows))
