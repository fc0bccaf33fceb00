-- Downloads and bytes, all clients together.
SELECT
  SUM(aggregated_count) AS downloads,
  SUM(sum_bytes_downloaded) AS bytes_downloaded
FROM AGGREGATED_EVENTS('file_download')
