-- The role that metrics run as ($1), and what it may read.

-- name: role
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)

-- name: taken_on
SELECT pg_has_role($2, $1, $3)

-- name: unreadable
-- Schemas and tables that the role lacks: the rollups', their tiers', which tiers there are and what they lack. Partitions
-- are read by the right to the whole. What is granted already is left alone: a grant writes the table's entry in the
-- catalogue each time, and would meet those who add partitions to it.
SELECT 'SCHEMA', quote_ident(nspname) FROM pg_namespace
WHERE nspname IN ('rollups', 'rollup_engine') AND NOT has_schema_privilege($1, oid, 'USAGE')
UNION ALL
SELECT 'TABLE', format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND NOT relispartition
  AND (nspname = 'rollups' OR (nspname = 'rollup_engine' AND relname IN ('tiers', 'changes')))
  AND NOT has_table_privilege($1, c.oid, 'SELECT')
