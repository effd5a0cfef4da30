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

alter table ai_background_tasks enable row level security;

create policy own_select on ai_background_tasks for select to authenticated using ((select auth.uid()) = user_id);

create policy own_insert on ai_background_tasks for insert to authenticated
   with check ((select auth.uid()) = user_id);

create policy own_update on ai_background_tasks for update to authenticated
  using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);

create policy own_delete on ai_background_tasks for delete to authenticated using ((select auth.uid()) = user_id);
