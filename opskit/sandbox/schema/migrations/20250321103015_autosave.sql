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

alter table document_snapshots enable row level security;

create policy own_select on document_snapshots for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on document_snapshots for insert to authenticated with check ((select auth.uid()) = user_id);

create policy own_delete on document_snapshots for delete to authenticated using ((select auth.uid()) = user_id);

alter table document_undo_history enable row level security;

create policy own_select on document_undo_history for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on document_undo_history for insert to authenticated
   with check ((select auth.uid()) = user_id);

create policy own_update on document_undo_history for update to authenticated
  using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);

create policy own_delete on document_undo_history for delete to authenticated using ((select auth.uid()) = user_id);

alter table autosave_failures enable row level security;

create policy own_select on autosave_failures for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on autosave_failures for insert to authenticated with check ((select auth.uid()) = user_id);
