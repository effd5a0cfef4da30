-- What opskit may change by itself, besides becoming the owner of it all.
grant update on user_profiles to opskit_change;
-- A stuck task is ended, and what it wrote is counted.
grant update (status, result, error) on ai_background_tasks to opskit_change;
grant insert on ai_usage to opskit_change;
-- A restored document is versioned by its trigger, which runs with the rights of whoever restores it.
grant update (content, word_count) on documents to opskit_change;
grant insert, delete on document_versions to opskit_change;
grant insert, delete on document_snapshots to opskit_change;
