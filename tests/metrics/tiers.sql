# title: a day, hours of the days that are cut or stale, windows of what is left
SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download') WHERE download_speed = 'fast';
SELECT
  SUM("file_download"."aggregated_count")
FROM (
  SELECT
    "count" AS "aggregated_count"
  FROM "tiers"."file_download_day"
  WHERE
    "external_customer_id" = $1
    AND "timestamp" >= $2
    AND "timestamp" < $3
    AND "download_speed" = 'fast'
    AND "timestamp" >= CAST('2024-03-09T00:00:00+00:00' AS TIMESTAMPTZ)
    AND "timestamp" < CAST('2024-03-12T00:00:00+00:00' AS TIMESTAMPTZ)
    AND (
      (
        "timestamp" >= CAST('2024-03-09T00:00:00+00:00' AS TIMESTAMPTZ)
        AND "timestamp" < CAST('2024-03-10T00:00:00+00:00' AS TIMESTAMPTZ)
      )
      OR (
        "timestamp" >= CAST('2024-03-11T00:00:00+00:00' AS TIMESTAMPTZ)
        AND "timestamp" < CAST('2024-03-12T00:00:00+00:00' AS TIMESTAMPTZ)
      )
    )
  UNION ALL
  SELECT
    "count" AS "aggregated_count"
  FROM "tiers"."file_download_hour"
  WHERE
    "external_customer_id" = $1
    AND "timestamp" >= $2
    AND "timestamp" < $3
    AND "download_speed" = 'fast'
    AND "timestamp" >= CAST('2024-03-10T00:00:00+00:00' AS TIMESTAMPTZ)
    AND "timestamp" < CAST('2024-03-11T00:00:00+00:00' AS TIMESTAMPTZ)
    AND (
      (
        "timestamp" >= CAST('2024-03-10T00:00:00+00:00' AS TIMESTAMPTZ)
        AND "timestamp" < CAST('2024-03-10T05:00:00+00:00' AS TIMESTAMPTZ)
      )
      OR (
        "timestamp" >= CAST('2024-03-10T06:00:00+00:00' AS TIMESTAMPTZ)
        AND "timestamp" < CAST('2024-03-11T00:00:00+00:00' AS TIMESTAMPTZ)
      )
    )
  UNION ALL
  (
    SELECT DISTINCT ON ("timestamp", "tuple_key")
      "count" AS "aggregated_count"
    FROM "rollups"."file_download_aggregated"
    WHERE
      "external_customer_id" = $1
      AND "timestamp" >= $2
      AND "timestamp" < $3
      AND "download_speed" = 'fast'
      AND "timestamp" >= CAST('2024-03-10T05:00:00+00:00' AS TIMESTAMPTZ)
      AND "timestamp" < CAST('2024-03-10T06:00:00+00:00' AS TIMESTAMPTZ)
    ORDER BY
      "timestamp" DESC,
      "tuple_key" DESC,
      "revision" DESC
  )
  UNION ALL
  (
    SELECT DISTINCT ON ("timestamp", "tuple_key")
      "count" AS "aggregated_count"
    FROM "rollups"."file_download_aggregated"
    WHERE
      "external_customer_id" = $1
      AND "timestamp" >= $2
      AND "timestamp" < $3
      AND "download_speed" = 'fast'
      AND "timestamp" >= CAST('2024-03-12T00:00:00+00:00' AS TIMESTAMPTZ)
      AND "timestamp" < CAST('2024-03-12T00:30:00+00:00' AS TIMESTAMPTZ)
    ORDER BY
      "timestamp" DESC,
      "tuple_key" DESC,
      "revision" DESC
  )
  OFFSET 0
) AS "file_download";

# title: hours of Berlin
SELECT date_trunc('day', timestamp, 'Europe/Berlin') AS day, SUM(sum_bytes) AS bytes FROM AGGREGATED_EVENTS('file_download') GROUP BY day;
SELECT
  DATE_TRUNC('DAY', "file_download"."timestamp", 'Europe/Berlin') AS "day",
  SUM("file_download"."sum_bytes") AS "bytes"
FROM (
  SELECT
    "timestamp",
    "sum_bytes"
  FROM "tiers"."file_download_hour"
  WHERE
    "external_customer_id" = $1
    AND "timestamp" >= $2
    AND "timestamp" < $3
    AND "timestamp" >= CAST('2024-03-09T00:00:00+00:00' AS TIMESTAMPTZ)
    AND "timestamp" < CAST('2024-03-12T00:00:00+00:00' AS TIMESTAMPTZ)
    AND (
      (
        "timestamp" >= CAST('2024-03-09T00:00:00+00:00' AS TIMESTAMPTZ)
        AND "timestamp" < CAST('2024-03-10T05:00:00+00:00' AS TIMESTAMPTZ)
      )
      OR (
        "timestamp" >= CAST('2024-03-10T06:00:00+00:00' AS TIMESTAMPTZ)
        AND "timestamp" < CAST('2024-03-12T00:00:00+00:00' AS TIMESTAMPTZ)
      )
    )
  UNION ALL
  (
    SELECT DISTINCT ON ("timestamp", "tuple_key")
      "timestamp",
      "sum_bytes"
    FROM "rollups"."file_download_aggregated"
    WHERE
      "external_customer_id" = $1
      AND "timestamp" >= $2
      AND "timestamp" < $3
      AND "timestamp" >= CAST('2024-03-10T05:00:00+00:00' AS TIMESTAMPTZ)
      AND "timestamp" < CAST('2024-03-10T06:00:00+00:00' AS TIMESTAMPTZ)
    ORDER BY
      "timestamp" DESC,
      "tuple_key" DESC,
      "revision" DESC
  )
  UNION ALL
  (
    SELECT DISTINCT ON ("timestamp", "tuple_key")
      "timestamp",
      "sum_bytes"
    FROM "rollups"."file_download_aggregated"
    WHERE
      "external_customer_id" = $1
      AND "timestamp" >= $2
      AND "timestamp" < $3
      AND "timestamp" >= CAST('2024-03-12T00:00:00+00:00' AS TIMESTAMPTZ)
      AND "timestamp" < CAST('2024-03-12T00:30:00+00:00' AS TIMESTAMPTZ)
    ORDER BY
      "timestamp" DESC,
      "tuple_key" DESC,
      "revision" DESC
  )
  OFFSET 0
) AS "file_download"
GROUP BY
  "day";

# title: what depends on each window
SELECT MAX(aggregated_count) FROM AGGREGATED_EVENTS('file_download');
SELECT
  MAX("file_download"."aggregated_count")
FROM (
  SELECT DISTINCT ON ("timestamp", "tuple_key")
    "count" AS "aggregated_count"
  FROM "rollups"."file_download_aggregated"
  WHERE
    "external_customer_id" = $1 AND "timestamp" >= $2 AND "timestamp" < $3
  ORDER BY
    "timestamp" DESC,
    "tuple_key" DESC,
    "revision" DESC
  OFFSET 0
) AS "file_download";
