-- Who changes partials without notes (an engine from before there were any, a person with psql) makes the tiers unknown
-- until they are looked through. For each statement: a trigger that sees rows would have COPY write them one by one.
DO $$ BEGIN
    CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON rollups."{table}_aggregated"
    FOR EACH STATEMENT WHEN (current_setting('rollup_engine.notes', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION rollup_engine.note_unknown('{table}');
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
