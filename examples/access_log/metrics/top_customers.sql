-- The ten clients that downloaded the most bytes.
SELECT
  external_customer_id,
  SUM(aggregated_count) AS downloads,
  COALESCE(SUM(sum_bytes_downloaded), 0) AS bytes_downloaded
FROM AGGREGATED_EVENTS('file_download')
GROUP BY external_customer_id
ORDER BY bytes_downloaded DESC, external_customer_id
LIMIT 10
