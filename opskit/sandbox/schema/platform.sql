-- What Supabase brings, before the team's first migration: its roles, auth, and the ledger of migrations.

-- Roles. The superuser is supabase_admin; postgres, whom people and migrations log in as, is none. Two are opskit's.
create role postgres login createdb createrole replication bypassrls;
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
create role supabase_read_only_user nologin bypassrls;
create role opskit_read login bypassrls;
create role opskit_change login bypassrls;
-- Scripts that people run by hand log in as this one.
create role maintenance login bypassrls;
grant anon, authenticated, service_role to authenticator, postgres;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
grant pg_read_all_data to supabase_read_only_user;
grant pg_monitor to opskit_read, opskit_change;
-- Becoming a user, to see what row-level security lets them do; becoming the owner, to migrate; and ending the
-- sessions that hold up others.
grant anon, authenticated, postgres to opskit_change with inherit false;
grant pg_signal_backend to opskit_change;
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter database postgres owner to postgres;

-- Auth.
create schema auth;
create table auth.users (
  id uuid primary key default gen_random_uuid(),
  aud text default 'authenticated',
  role text default 'authenticated',
  email text unique,
  email_confirmed_at timestamptz,
  last_sign_in_at timestamptz,
  created_at timestamptz not null default now()
);
create function auth.jwt() returns jsonb language sql stable as $$
  select nullif(coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    current_setting('request.jwt.claims', true)
  ), '')::jsonb
$$;
create function auth.uid() returns uuid language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), auth.jwt() ->> 'sub')::uuid
$$;
create function auth.role() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''), auth.jwt() ->> 'role')
$$;

-- The present, or the moment of a past that the sandbox is playing.
create schema sandbox;
create function sandbox.moment() returns timestamptz language sql stable as $$
  select coalesce(nullif(current_setting('sandbox.now', true), '')::timestamptz, now())
$$;

-- The migration ledger, as the command-line tool makes it. It keeps no times.
create schema supabase_migrations authorization postgres;
create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text);
alter table supabase_migrations.schema_migrations owner to postgres;

-- Rights. Row-level security decides what a user sees; the service role and opskit's two roles pass it by.
grant usage on schema public, auth, sandbox to postgres, anon, authenticated, service_role;
grant all on all tables in schema auth to postgres;
grant select on all tables in schema auth to service_role;
grant usage on schema public, auth, sandbox, supabase_migrations to opskit_read, opskit_change;
grant select on all tables in schema auth, supabase_migrations to opskit_read, opskit_change;
grant usage on schema public, auth, sandbox to maintenance;
-- What a migration makes is seen by the same ones.
alter default privileges for role postgres in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant select on tables to opskit_read, opskit_change;
alter default privileges for role postgres in schema public
  grant select, insert, update, delete on tables to maintenance;
