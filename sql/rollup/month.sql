-- The partition of one month. Attached rather than made in place: that would lock out readers of the whole table.
CREATE TABLE rollups."{table}_aggregated_{month}" (LIKE rollups."{table}_aggregated" INCLUDING DEFAULTS INCLUDING GENERATED);
ALTER TABLE rollups."{table}_aggregated" ATTACH PARTITION rollups."{table}_aggregated_{month}"
    FOR VALUES FROM ('{start}') TO ('{end}');
