-- Downloads and bytes per HTTP status.
SELECT
  status,
  SUM(aggregated_count) AS downloads,
  COALESCE(SUM(sum_bytes_downloaded), 0) AS bytes_downloaded
FROM AGGREGATED_EVENTS('file_download')
GROUP BY status
ORDER BY status
