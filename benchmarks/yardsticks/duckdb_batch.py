"""DuckDB over the same events as a file: a batch, of everything at once."""

import duckdb

from benchmarks.yardsticks.common import Stopwatch, Task, task

QUERY = """
    SELECT epoch_ms(time_bucket(INTERVAL '10 minutes', "at")), customer, speed, count(*), sum(bytes)::bigint
    FROM (
        SELECT id, any_value("at") AS "at", any_value(customer) AS customer, any_value(speed) AS speed,
               any_value(bytes) AS bytes
        FROM read_json(?, format = 'newline_delimited', columns = {
            id: 'VARCHAR', customer: 'VARCHAR', "at": 'TIMESTAMP', bytes: 'BIGINT', speed: 'VARCHAR'
        })
        GROUP BY id
    )
    GROUP BY ALL
"""


def main(task: Task) -> None:
    with duckdb.connect() as database:
        watch = Stopwatch()
        watch.start()
        rows = database.execute(QUERY, [str(task.file)]).fetchall()
        task.done(watch.seconds, rows)


main(task())
