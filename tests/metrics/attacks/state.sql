-- What an attack may want to change, apart from rows: tables and rights, functions, roles, sequences, objects, locks.
SELECT COUNT(*), md5(string_agg(oid::text || relname || coalesce(relacl::text, ''), '' ORDER BY oid))
FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_';

SELECT COUNT(*), md5(string_agg(oid::text || proname, '' ORDER BY oid)) FROM pg_proc;

SELECT COUNT(*), bool_or(rolsuper OR rolcanlogin OR rolcreaterole OR rolreplication OR rolbypassrls OR rolcreatedb)
FROM pg_roles WHERE rolname = 'rollup_metrics';

SELECT COUNT(*), max(last_value) FROM pg_sequences;

SELECT COUNT(*), 0 FROM pg_largeobject_metadata;

SELECT COUNT(*), 0 FROM pg_prepared_xacts;

SELECT COUNT(*), 0 FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
