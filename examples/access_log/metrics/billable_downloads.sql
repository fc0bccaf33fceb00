-- What a price per download would charge: successful GETs only, per client.
SELECT
  external_customer_id,
  SUM(aggregated_count) AS downloads
FROM AGGREGATED_EVENTS('file_download')
WHERE method = 'GET' AND status IN ('200', '206')
GROUP BY external_customer_id
ORDER BY downloads DESC, external_customer_id
