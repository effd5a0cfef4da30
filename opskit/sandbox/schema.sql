-- The company's database: Supabase's roles and auth schema, then the app's own tables.

-- Roles, as Supabase has them, and the two that opskit logs in with.
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
create role opskit_read login bypassrls;
create role opskit_change login bypassrls;
-- Scripts that people run by hand log in as this one.
create role maintenance login bypassrls;
grant anon, authenticated, service_role to authenticator;
grant pg_monitor to opskit_read, opskit_change;
-- Becoming a user, to see what row-level security lets them do; and ending the sessions that hold up others.
grant anon, authenticated to opskit_change with inherit false;
grant pg_signal_backend to opskit_change;
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';

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
create function public.touch_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at := sandbox.moment();
  return new;
end $$;

-- What each tier may use. The only public table without row-level security.
create table subscription_tier_limits (
  tier text primary key,
  max_projects integer,
  max_documents integer,
  max_document_snapshots integer,
  ai_words_per_month integer,
  ai_requests_per_month integer
);
insert into subscription_tier_limits values
  ('free', 3, 20, 200, 25000, 300),
  ('hobbyist', 10, 200, 1000, 120000, 1500),
  ('professional', 50, 2000, 4000, 400000, 5000),
  ('studio', null, null, null, null, null);

create table user_profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  email text not null,
  full_name text,
  stripe_customer_id text unique,
  stripe_subscription_id text unique,
  stripe_price_id text,
  subscription_status text default 'active',
  subscription_tier text not null default 'free'
    constraint user_profiles_subscription_tier_check
    check (subscription_tier in ('free', 'hobbyist', 'professional', 'studio')),
  subscription_current_period_start timestamptz,
  subscription_current_period_end timestamptz,
  ai_words_used_this_month integer not null default 0,
  ai_words_reset_date timestamptz default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create function public.handle_new_user() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into public.user_profiles (id, email) values (new.id, new.email);
  return new;
end $$;
create trigger on_auth_user_created after insert on auth.users for each row execute function public.handle_new_user();
create trigger user_profiles_touch before update on user_profiles for each row execute function touch_updated_at();

-- Writing: projects, documents, and the places where their text is kept.
create table projects (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references user_profiles (id) on delete cascade,
  title text not null,
  genre text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index projects_user on projects (user_id);
create trigger projects_touch before update on projects for each row execute function touch_updated_at();

create table documents (
  id uuid primary key default gen_random_uuid(),
  project_id uuid not null references projects (id) on delete cascade,
  user_id uuid not null references user_profiles (id) on delete cascade,
  title text not null,
  content jsonb not null default '{}',
  is_folder boolean not null default false,
  status text not null default 'draft' check (status in ('complete', 'draft', 'todo', 'ai_generated')),
  word_count integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint documents_folder_is_empty check (not is_folder or content = '{}')
);
create index documents_project on documents (project_id);
create index documents_user on documents (user_id);

create table document_versions (
  id uuid primary key default gen_random_uuid(),
  document_id uuid not null references documents (id) on delete cascade,
  user_id uuid not null references user_profiles (id) on delete cascade,
  version_number integer not null,
  title text not null,
  content jsonb not null,
  word_count integer not null default 0,
  created_at timestamptz not null default now()
);
create index document_versions_document on document_versions (document_id, version_number);

create table document_snapshots (
  id uuid primary key default gen_random_uuid(),
  document_id uuid not null references documents (id) on delete cascade,
  user_id uuid not null references user_profiles (id) on delete cascade,
  autosave_hash text not null,
  payload jsonb not null,
  created_at timestamptz not null default now()
);
create index document_snapshots_document on document_snapshots (document_id, created_at desc);
create index document_snapshots_user on document_snapshots (user_id);

create table document_undo_history (
  document_id uuid not null references documents (id) on delete cascade,
  user_id uuid not null references user_profiles (id) on delete cascade,
  undo_stack jsonb not null default '[]',
  redo_stack jsonb not null default '[]',
  updated_at timestamptz not null default now(),
  primary key (document_id, user_id)
);

create table document_branches (
  id uuid primary key default gen_random_uuid(),
  document_id uuid not null references documents (id) on delete cascade,
  user_id uuid not null references user_profiles (id) on delete cascade,
  name text not null,
  is_main boolean not null default false,
  content jsonb not null,
  created_at timestamptz not null default now()
);
create index document_branches_document on document_branches (document_id);

create table autosave_failures (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references user_profiles (id) on delete cascade,
  document_id uuid references documents (id) on delete cascade,
  failure_type text not null,
  error_message text,
  client_hash text,
  server_hash text,
  retry_count integer not null default 0,
  is_resolved boolean not null default false,
  user_agent text,
  content_preview text,
  created_at timestamptz not null default now()
);
create index autosave_failures_created on autosave_failures (created_at);

-- Runs with the writer's own rights. Keeps the new body; the free tier forgets after thirty days.
create function public.create_document_version() returns trigger language plpgsql as $$
declare
  owner_tier text;
begin
  insert into document_versions (document_id, user_id, version_number, title, content, word_count, created_at)
  values (new.id, new.user_id,
          (select coalesce(max(version_number), 0) + 1 from document_versions where document_id = new.id),
          new.title, new.content, new.word_count, sandbox.moment());
  select subscription_tier into owner_tier from user_profiles where id = new.user_id;
  if owner_tier = 'free' then
    delete from document_versions
    where document_id = new.id and created_at < sandbox.moment() - interval '30 days';
  end if;
  return new;
end $$;
create trigger documents_touch before update on documents for each row execute function touch_updated_at();
create trigger documents_version after update on documents for each row
  when (old.content is distinct from new.content) execute function create_document_version();

create function public.enforce_document_limit() returns trigger language plpgsql as $$
declare
  plan text;
  cap integer;
begin
  select p.subscription_tier, l.max_documents into plan, cap
  from user_profiles p join subscription_tier_limits l on l.tier = p.subscription_tier where p.id = new.user_id;
  if cap is not null and (select count(*) from documents where user_id = new.user_id) >= cap then
    raise exception 'Plan % allows % documents', plan, cap using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger documents_limit before insert on documents for each row execute function enforce_document_limit();

create function public.enforce_snapshot_limit() returns trigger language plpgsql as $$
declare
  plan text;
  cap integer;
begin
  select p.subscription_tier, l.max_document_snapshots into plan, cap
  from user_profiles p join subscription_tier_limits l on l.tier = p.subscription_tier where p.id = new.user_id;
  if cap is not null and (select count(*) from document_snapshots where user_id = new.user_id) >= cap then
    raise exception 'Plan % allows % document snapshots', plan, cap using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger document_snapshots_limit before insert on document_snapshots
  for each row execute function enforce_snapshot_limit();

-- AI: what was asked, what runs in the background, and the ledger that quotas count.
create table ai_requests (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references user_profiles (id) on delete cascade,
  document_id uuid references documents (id) on delete set null,
  requested_model text,
  selected_model text not null,
  command text,
  intent text,
  prompt_preview text,
  latency_ms integer,
  prompt_tokens integer,
  completion_tokens integer,
  status text not null default 'succeeded',
  error text,
  routing_metadata jsonb,
  created_at timestamptz not null default now()
);
create index ai_requests_created on ai_requests (created_at);
create index ai_requests_user on ai_requests (user_id, created_at);

create table ai_background_tasks (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references user_profiles (id) on delete cascade,
  document_id uuid references documents (id) on delete set null,
  task_type text not null,
  status text not null default 'queued' check (status in ('queued', 'running', 'succeeded', 'failed')),
  provider_response_id text,
  result jsonb,
  error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index ai_background_tasks_status on ai_background_tasks (status, created_at);
create trigger ai_background_tasks_touch before update on ai_background_tasks
  for each row execute function touch_updated_at();

create table ai_usage (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references user_profiles (id) on delete cascade,
  request_id uuid references ai_requests (id) on delete set null,
  model text not null,
  words_generated integer not null,
  created_at timestamptz not null default now()
);
create index ai_usage_user on ai_usage (user_id, created_at);

-- The migration ledger. It keeps no times.
create schema supabase_migrations;
create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text);
insert into supabase_migrations.schema_migrations (version, name, statements) values
  ('20250114091200', 'initial_schema', array['create table user_profiles (...)', 'create table documents (...)']),
  ('20250203142530', 'document_versions', array['create table document_versions (...)']),
  ('20250321103015', 'autosave', array['create table document_snapshots (...)', 'create table autosave_failures (...)']),
  ('20250512081144', 'ai_requests', array['create table ai_requests (...)', 'create table ai_usage (...)']),
  ('20250630160902', 'background_tasks', array['create table ai_background_tasks (...)']),
  ('20250822071833', 'tier_limits', array['alter table subscription_plan_limits rename to subscription_tier_limits']),
  ('20251006113348', 'document_branches', array['create table document_branches (...)']);

-- Rights. Row-level security decides what a user sees; the service role and opskit's two roles pass it by.
grant usage on schema public, auth, sandbox to anon, authenticated, service_role;
grant all on all tables in schema public to anon, authenticated, service_role;
grant select on all tables in schema auth to service_role;
grant usage on schema public, auth, sandbox, supabase_migrations to opskit_read, opskit_change;
grant select on all tables in schema public, auth, supabase_migrations to opskit_read, opskit_change;
grant update on user_profiles to opskit_change;
-- A stuck task is ended, and what it wrote is counted.
grant update (status, result, error) on ai_background_tasks to opskit_change;
grant insert, delete on ai_usage to opskit_change;
-- A restored document is versioned by its trigger, which runs with the rights of whoever restores it.
grant update (content, word_count) on documents to opskit_change;
grant insert, delete on document_versions to opskit_change;
grant insert, delete on document_snapshots to opskit_change;
grant usage on schema public, auth, sandbox to maintenance;
grant select, insert, update, delete on all tables in schema public to maintenance;

create function public.owner_only(target regclass, owner_column text, actions text[])
returns void language plpgsql as $$
declare
  action text;
  test text := format('(select auth.uid()) = %I', owner_column);
begin
  execute format('alter table %s enable row level security', target);
  foreach action in array actions loop
    execute format(
      'create policy %I on %s for %s to authenticated %s %s', 'own_' || action, target, action,
      case when action = 'insert' then '' else 'using (' || test || ')' end,
      case when action in ('insert', 'update') then 'with check (' || test || ')' else '' end);
  end loop;
end $$;
select owner_only('user_profiles', 'id', array['select', 'update']);
select owner_only(t::regclass, 'user_id', array['select', 'insert', 'update', 'delete'])
from unnest(array['projects', 'documents', 'document_versions', 'document_undo_history', 'document_branches',
                  'ai_background_tasks']) t;
select owner_only(t::regclass, 'user_id', array['select', 'insert', 'delete']) from unnest(array['document_snapshots']) t;
select owner_only(t::regclass, 'user_id', array['select', 'insert']) from unnest(array['autosave_failures', 'ai_requests', 'ai_usage']) t;
drop function public.owner_only(regclass, text, text[]);
